import numpy as np
import pytest

from ddim_keras import (
    InputError,
    KernelInceptionDistance,
    compact_encoder,
    draw_flowers,
    load_dataset,
)
from ddim_keras.data.batches import random_images
from ddim_keras.metrics.kid import squared_mmd


def test_squared_mmd_is_the_unbiased_estimate_written_out_as_sums():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(5, 3)), random.normal(0.5, 1.0, size=(4, 3))

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    within_x = sum(kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    within_y = sum(kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / (4 * 3)
    across = sum(kernel(a, b) for a in x for b in y) / (5 * 4)
    assert squared_mmd(x, y) == pytest.approx(within_x + within_y - 2 * across)


def test_squared_mmd_is_unbiased_for_gaussians():
    # For x, y ~ N(mean, 1) in one dimension E (xy + 1)^3 has a closed form in the moments.
    def expected_kernel(mean_a, mean_b):
        def moments(mean):
            return mean, mean**2 + 1, mean**3 + 3 * mean

        a, b = moments(mean_a), moments(mean_b)
        return 1 + 3 * a[0] * b[0] + 3 * a[1] * b[1] + a[2] * b[2]

    shift = 1.0
    exact = expected_kernel(0, 0) + expected_kernel(shift, shift) - 2 * expected_kernel(0, shift)
    random = np.random.default_rng(1)
    estimates = [
        squared_mmd(random.normal(size=(32, 1)), random.normal(shift, size=(32, 1)))
        for _ in range(4000)
    ]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - exact) < 3 * error
    assert error < 0.05 * exact


def test_kid_is_about_zero_for_two_halves_of_one_set_and_large_for_another(encoder):
    images, _ = draw_flowers(512, 24)
    kid = KernelInceptionDistance(encoder, images[:256])
    same = kid(images[256:])
    other = kid(255 - images[256:])
    assert abs(same.value) < 3 * same.standard_error
    assert other.value > 3 * abs(same.value)
    assert other.value > 5 * other.standard_error


def test_kid_is_the_mean_over_random_batches_with_its_standard_error(encoder):
    images, _ = draw_flowers(96, 24)
    real, generated = images[:32], images[32:]
    distance = KernelInceptionDistance(encoder, real, batch_size=16)(generated)
    a, b = encoder.features(real), encoder.features(generated)
    random = np.random.default_rng(0)
    a = np.concatenate([a[random.permutation(32)], a[random.permutation(32)]])  # used twice
    b = b[np.random.default_rng(1).permutation(64)]
    values = [squared_mmd(a[i : i + 16], b[i : i + 16]) for i in range(0, 64, 16)]
    assert distance.value == pytest.approx(np.mean(values))
    assert distance.standard_error == pytest.approx(np.std(values, ddof=1) / 2)


@pytest.fixture(scope="module")
def fresh_flowers():
    return draw_flowers(640, 16, seed=1)


@pytest.fixture(scope="module")
def sorted_flowers(tmp_path_factory):
    """640 flowers, one class after the other as in folders of classes, prepared for a training."""
    place = tmp_path_factory.mktemp("sorted")
    images, labels = draw_flowers(640, 16)
    order = np.argsort(labels, kind="stable")
    np.savez(place / "flowers.npz", images=images[order], labels=labels[order])
    return load_dataset(place / "flowers.npz", 16, cache_dir=place)


@pytest.mark.parametrize("is_sorted", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_perfect_generator_on_sorted_data_scores_the_floor(
    sorted_flowers, fresh_flowers, is_sorted
):
    images, labels = fresh_flowers
    order = np.argsort(labels, kind="stable") if is_sorted else np.arange(len(labels))
    kid = KernelInceptionDistance(compact_encoder(), sorted_flowers.validation_images, 16)
    floor = kid(random_images(sorted_flowers.train_images, 128))
    perfect = kid(images[order])
    error = np.hypot(floor.standard_error, perfect.standard_error)
    assert abs(perfect.value - floor.value) < 2 * error
    for species in (0, 7):
        one_class = kid(images[labels == species])
        assert one_class.value - floor.value > 5 * error
        assert one_class.value > 5 * one_class.standard_error


def test_few_real_images_make_smaller_batches_which_the_protocol_names(encoder):
    images, _ = draw_flowers(64, 16)
    assert KernelInceptionDistance(encoder, images).protocol == "KID, random convolution, 64"
    kid = KernelInceptionDistance(encoder, images[:20])
    assert kid.protocol == "KID, random convolution, 64, batches of 20"
    assert np.isfinite(kid(images[20:]).standard_error)


def test_too_few_images_are_refused(encoder):
    images, _ = draw_flowers(20, 16)
    with pytest.raises(InputError, match="at least 2 real images, not 1"):
        KernelInceptionDistance(encoder, images[:1])
    kid = KernelInceptionDistance(encoder, images, batch_size=16)
    with pytest.raises(InputError, match="at least 16 generated images, not 3"):
        kid(images[:3])
