"""Drawn flowers: reproducible, balanced, green around the blossom, and species one can tell."""

import numpy as np
import pytest
from PIL import Image

from ddim_keras.data.drawn_flowers import SPECIES, draw_flowers


@pytest.fixture(scope="module")
def flowers():
    return draw_flowers(200, image_size=32, seed=0)


def is_green(colours):
    red, green, blue = colours.T
    return (green > red) & (green > blue)


def colour_histograms(images):
    """Square roots of the shares (N, 64) of colours, four grades per channel, in each image."""
    bins = (images // 64).astype(int) @ (16, 4, 1)
    counts = np.stack([np.bincount(image.ravel(), minlength=64) for image in bins])
    return np.sqrt(counts / bins[0].size)


def test_ten_species_with_names_of_their_own():
    assert len(SPECIES) == 10
    assert len({species.name for species in SPECIES}) == 10
    assert len({(species.petals, species.colours) for species in SPECIES}) == 10


@pytest.mark.parametrize("image_size", [8, 28, 32, 64, 75])
def test_shape_and_type_at_any_size(image_size):
    images, labels = draw_flowers(11, image_size)
    assert images.shape == (11, image_size, image_size, 3)
    assert images.dtype == np.uint8
    assert labels.shape == (11,)
    assert labels.dtype == np.int32


def test_labels_are_balanced(flowers):
    assert np.array_equal(np.bincount(flowers[1]), [20] * 10)


def test_longer_call_starts_with_the_images_of_a_shorter_one(flowers):
    images, labels = draw_flowers(13, image_size=32, seed=0)
    assert np.array_equal(images, flowers[0][:13])
    assert np.array_equal(labels, flowers[1][:13])


def test_every_image_and_every_seed_draws_another_flower(flowers):
    images, _ = flowers
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
    others, _ = draw_flowers(20, image_size=32, seed=1)
    assert np.abs(others.astype(int) - images[:20]).mean((1, 2, 3)).min() > 5


def test_another_size_shows_the_same_flowers(flowers):
    large, _ = draw_flowers(10, image_size=64, seed=0)
    reduced = np.stack([np.asarray(Image.fromarray(image).reduce(2)) for image in large])
    assert np.abs(reduced.astype(int) - flowers[0][:10]).mean() < 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "num_images must be at least 1, not 0"),
        ((-3,), "num_images must be at least 1, not -3"),
        ((1, 7), "image_size must be at least 8, not 7"),
        ((1, 64, -1), "seed must be at least 0, not -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        draw_flowers(*arguments)


def test_images_are_colourful_and_use_the_range(flowers):
    images = flowers[0].astype(int)
    assert (images.max(-1) - images.min(-1)).mean((1, 2)).min() > 25  # measured: 41
    assert images.std((1, 2, 3)).min() > 25  # measured: 38
    assert images.min() < 15
    assert images.max() == 255
    assert 80 < images.mean() < 120


def test_blossom_in_the_middle_of_green(flowers):
    images, _ = flowers
    rim = np.ones(images.shape[1:3], bool)
    rim[1:-1, 1:-1] = False
    assert is_green(images[:, rim].mean(1)).mean() > 0.98  # measured: 1.00
    # Not quite 0: the throat of a lily is greenish.
    assert is_green(images[:, 12:20, 12:20].mean((1, 2))).mean() < 0.12  # measured: 0.06


def test_blossoms_of_a_species_vary_in_size_and_fit_the_image(flowers):
    images, labels = flowers
    red, green, _ = np.moveaxis(images[labels == 0].astype(int), -1, 0)
    shares = ((red > 100) & (red > 1.5 * green)).mean((1, 2))  # of the image, covered by a poppy
    assert shares.min() > 0.15
    assert shares.max() < 0.75
    assert shares.std() > 0.05  # measured: 0.10


def test_species_can_be_told_apart_by_their_colours():
    images, labels = draw_flowers(600, image_size=32, seed=7)
    histograms, known = colour_histograms(images), labels[:400]
    means = np.stack([histograms[:400][known == label].mean(0) for label in range(10)])
    distances = ((histograms[400:, None] - means) ** 2).sum(-1)
    assert np.mean(distances.argmin(1) == labels[400:]) > 0.95  # measured: 0.995; by chance: 0.1
