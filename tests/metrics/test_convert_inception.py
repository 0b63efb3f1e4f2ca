"""The converter on a made-up checkpoint, against the network written with PyTorch's functions."""

import hashlib

import numpy as np
import pytest
from helpers import run

from ddim_keras import inception_encoder
from ddim_keras.metrics import convert_inception

torch = pytest.importorskip("torch")
functional = torch.nn.functional

PUBLISHED = convert_inception.SHA256
PARTS_OF_NORM = ("running_mean", "running_var", "weight", "bias")

# (input, output channels, kernel) of each convolution of the published checkpoint, by its name.
SHAPES = {
    "Conv2d_1a_3x3": (3, 32, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (32, 64, 3, 3),
    "Conv2d_3b_1x1": (64, 80, 1, 1),
    "Conv2d_4a_3x3": (80, 192, 3, 3),
}
for block, channels, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
    SHAPES |= {
        f"Mixed_{block}.{name}": shape
        for name, shape in {
            "branch1x1": (channels, 64, 1, 1),
            "branch5x5_1": (channels, 48, 1, 1),
            "branch5x5_2": (48, 64, 5, 5),
            "branch3x3dbl_1": (channels, 64, 1, 1),
            "branch3x3dbl_2": (64, 96, 3, 3),
            "branch3x3dbl_3": (96, 96, 3, 3),
            "branch_pool": (channels, pooled, 1, 1),
        }.items()
    }
SHAPES |= {
    "Mixed_6a.branch3x3": (288, 384, 3, 3),
    "Mixed_6a.branch3x3dbl_1": (288, 64, 1, 1),
    "Mixed_6a.branch3x3dbl_2": (64, 96, 3, 3),
    "Mixed_6a.branch3x3dbl_3": (96, 96, 3, 3),
}
for block, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
    SHAPES |= {
        f"Mixed_{block}.{name}": shape
        for name, shape in {
            "branch1x1": (768, 192, 1, 1),
            "branch7x7_1": (768, width, 1, 1),
            "branch7x7_2": (width, width, 1, 7),
            "branch7x7_3": (width, 192, 7, 1),
            "branch7x7dbl_1": (768, width, 1, 1),
            "branch7x7dbl_2": (width, width, 7, 1),
            "branch7x7dbl_3": (width, width, 1, 7),
            "branch7x7dbl_4": (width, width, 7, 1),
            "branch7x7dbl_5": (width, 192, 1, 7),
            "branch_pool": (768, 192, 1, 1),
        }.items()
    }
UNUSED = {"Mixed_7a.branch3x3_1.conv.weight": (192, 768, 1, 1), "fc.bias": (1008,)}


@pytest.fixture(scope="module")
def arrays():
    random = torch.Generator().manual_seed(0)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=random)

    arrays = {name: torch.zeros(shape) for name, shape in UNUSED.items()}
    for name, (channels, width, *kernel) in SHAPES.items():
        reach = (6 / (channels * kernel[0] * kernel[1])) ** 0.5
        arrays |= {
            f"{name}.conv.weight": uniform(-reach, reach, width, channels, *kernel),
            f"{name}.bn.weight": uniform(0.8, 1.2, width),
            f"{name}.bn.bias": uniform(-0.2, 0.2, width),
            f"{name}.bn.running_mean": uniform(-0.2, 0.2, width),
            f"{name}.bn.running_var": uniform(0.5, 1.5, width),
            f"{name}.bn.num_batches_tracked": torch.tensor(0),
        }
    return arrays


@pytest.fixture(scope="module")
def checkpoint(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "made_up.pth"
    torch.save(arrays, path)
    with pytest.MonkeyPatch.context() as patch:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        patch.setattr(convert_inception, "SHA256", digest)
        yield path


def expected_features(arrays, pixels):
    """Inception v3 up to Mixed_6e as pytorch-fid has it, pooled."""

    def convolve(x, name, stride=1, padding="same"):
        x = functional.conv2d(x, arrays[f"{name}.conv.weight"], stride=stride, padding=padding)
        norm = [arrays[f"{name}.bn.{part}"] for part in PARTS_OF_NORM]
        return functional.relu(functional.batch_norm(x, *norm, eps=1e-3))

    def chain(x, name, count):
        for number in range(1, count + 1):
            x = convolve(x, f"{name}_{number}")
        return x

    def pool(x, block):
        x = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return convolve(x, f"{block}.branch_pool")

    x = convolve(pixels, "Conv2d_1a_3x3", stride=2, padding=0)
    x = convolve(convolve(x, "Conv2d_2a_3x3", padding=0), "Conv2d_2b_3x3")
    x = functional.max_pool2d(x, 3, stride=2)
    x = convolve(convolve(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3", padding=0)
    x = functional.max_pool2d(x, 3, stride=2)
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        branches = convolve(x, f"{block}.branch1x1"), chain(x, f"{block}.branch5x5", 2)
        x = torch.cat([*branches, chain(x, f"{block}.branch3x3dbl", 3), pool(x, block)], dim=1)
    large = convolve(x, "Mixed_6a.branch3x3", stride=2, padding=0)
    double = chain(x, "Mixed_6a.branch3x3dbl", 2)
    double = convolve(double, "Mixed_6a.branch3x3dbl_3", stride=2, padding=0)
    x = torch.cat([large, double, functional.max_pool2d(x, 3, stride=2)], dim=1)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        branches = convolve(x, f"{block}.branch1x1"), chain(x, f"{block}.branch7x7", 3)
        x = torch.cat([*branches, chain(x, f"{block}.branch7x7dbl", 5), pool(x, block)], dim=1)
    return x.mean(dim=(2, 3)).numpy()


@pytest.mark.slow
def test_features_are_those_of_the_checkpoint(arrays, checkpoint, tmp_path):
    output = tmp_path / "fid.weights.h5"
    assert run(convert_inception, checkpoint, "--output", output) == 0
    encoder = inception_encoder(output)
    assert encoder.description == "FID Inception, 768"
    images = np.random.default_rng(0).random((3, 75, 75, 3), dtype="float32")
    pixels = torch.from_numpy(2 * images - 1).permute(0, 3, 1, 2)
    expected = expected_features(arrays, pixels)
    assert expected.std() > 0.1
    np.testing.assert_allclose(encoder.features(images), expected, rtol=1e-3, atol=1e-4)


def test_another_file_is_refused_before_it_is_read(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", None)
    other = tmp_path / "other.pth"
    other.write_bytes(checkpoint.read_bytes()[:-1])
    error = run(convert_inception, other, "--output", tmp_path / "fid.weights.h5")
    assert error.startswith(f"error: {other} is not the published checkpoint: its SHA-256 is ")
    assert run(convert_inception, tmp_path / "none.pth") == (
        f"error: there is no file {tmp_path / 'none.pth'}"
    )
    assert run(convert_inception, checkpoint, "--output", tmp_path / "fid.h5") == (
        "error: --output must end in .weights.h5, not 'fid.h5'"
    )
    assert list(tmp_path.iterdir()) == [other]


def test_an_old_pytorch_is_refused(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    error = run(convert_inception, checkpoint, "--output", tmp_path / "fid.weights.h5")
    assert error == 'error: PyTorch 2.9.1+cpu reads pickles less safely: pip install "torch>=2.10"'


def test_only_arrays_are_read(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return print, ("code",)

    path = tmp_path / "trap.pth"
    torch.save({"fc.bias": Trap()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(convert_inception, "SHA256", digest)
    with pytest.raises(Exception, match="weights_only"):
        convert_inception.read_checkpoint(path)


def test_the_published_checksum_is_that_of_the_file_name():
    # The name that torch.hub checks: pt_inception-2015-12-05-6726825d.pth.
    assert len(PUBLISHED) == 64
    assert PUBLISHED.startswith("6726825d")
