"""Masks; the reading of images is tested with the sources of data."""

import numpy as np
import pytest
from PIL import Image

from ddim_keras.config import InputError
from ddim_keras.data.images import crop_and_resize, load_mask


@pytest.fixture
def written(tmp_path):
    """Writes pixels as an image file, and returns its path."""

    def written(name, pixels):
        Image.fromarray(np.asarray(pixels, "uint8")).save(tmp_path / name)
        return tmp_path / name

    return written


def test_a_mask_keeps_what_holds_nothing_to_fill_in(written):
    photo = written("photo.png", np.zeros((60, 90, 3)))
    pixels = np.zeros((60, 90))
    pixels[:, 47:] = 255  # not at the border of a pixel of 16 x 16
    mask = load_mask(written("mask.png", pixels), photo, 16)
    assert mask.shape == (16, 16, 1)
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) == {0.0, 1.0}
    np.testing.assert_array_equal(mask == 0, crop_and_resize(pixels.astype("uint8"), 16) == 0)


def test_a_mask_may_have_another_resolution_and_grey(written):
    photo = written("photo.png", np.zeros((64, 64, 3)))
    pixels = np.repeat([0, 51, 255, 255], 8)[None].repeat(32, axis=0)
    mask = load_mask(written("mask.png", pixels), photo, 32)
    np.testing.assert_allclose(mask[..., 0], pixels / 255)


def test_a_mask_of_another_shape_is_refused(written):
    photo = written("photo.png", np.zeros((40, 60, 3)))
    mask = written("mask.png", np.zeros((40, 40)))
    with pytest.raises(InputError, match=r"has 40 x 40 pixels, but .*photo.png has 60 x 40"):
        load_mask(mask, photo, 16)
