import numpy as np
import pytest

from ddim_keras.metrics.pixels import pixel_statistics


def test_of_images_whose_statistics_are_known():
    # Columns of black and of pure orange in turns.
    image = np.zeros((8, 8, 3), "uint8")
    image[:, 1::2] = (255, 102, 0)
    found = pixel_statistics(np.stack([image, image]))
    assert found == pytest.approx(
        {
            "red": 0.5,
            "green": 0.2,
            "blue": 0.0,
            "contrast": (0.5 + 0.2 + 0.0) / 3,
            "saturation": 0.5,
            # Neighbours in a row differ by 1, 0.4 and 0; those in a column are equal.
            "detail": np.sqrt((1 + 0.4**2) / 3 / 2),
        },
        abs=1e-6,
    )


def test_blur_takes_detail_and_contrast_and_leaves_the_colour():
    sharp = np.random.default_rng(0).random((4, 16, 16, 3))
    blurred = (sharp + np.roll(sharp, 1, axis=1) + np.roll(sharp, 1, axis=2)) / 3
    before, after = pixel_statistics(sharp), pixel_statistics(blurred)
    assert after["detail"] < 0.7 * before["detail"]
    assert after["contrast"] < 0.7 * before["contrast"]
    assert after["red"] == pytest.approx(before["red"])


def test_of_grey_images_in_float():
    assert pixel_statistics(np.full((1, 4, 4, 1), 0.25)) == {
        "brightness": 0.25,
        "contrast": 0.0,
        "saturation": 0.0,
        "detail": 0.0,
    }
