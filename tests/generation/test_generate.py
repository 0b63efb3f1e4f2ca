"""What generate.py does besides a plain grid: classes, samplers, animations, editing."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import generate
from ddim_keras import DiffusionModel, draw_flowers
from ddim_keras.cli.options import class_index
from ddim_keras.config import InputError
from ddim_keras.data.images import crop_and_resize
from ddim_keras.runs.weights import load_weights, save_weights
from tests.helpers import NAMES, SIZE, make_run, run


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("labelled") / "run", num_classes=3)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("unlabelled") / "run", num_classes=0)


@pytest.fixture
def images_of(tmp_path):
    """Runs the command with some arguments, and returns the single images that it wrote."""

    def images_of(trained, *arguments):
        folder = tmp_path / f"images-{len(list(tmp_path.iterdir()))}"
        status = run(
            generate,
            *("--run", trained.folder, "--steps", 3, "--images-dir", folder),
            *("--output", tmp_path / "grid.png", *arguments),
        )
        assert status == 0
        return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*"))])

    return images_of


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(draw_flowers(1, 40)[0][0]).save(path)
    return path


def differ(images, others):
    return np.abs(images.astype(float) - others).max() > 2


class TestClasses:
    def test_each_class_gets_its_images_in_order(self, labelled, images_of):
        images = images_of(labelled, "--class", "rose", "0", "--num-images", 2)
        assert len(images) == 4
        roses = images_of(labelled, "--class", "Rose", "--num-images", 4)
        sunflowers = images_of(labelled, "--class", "sunflower", "--num-images", 4)
        assert not differ(images[:2], roses[:2])
        assert not differ(images[2:], sunflowers[2:])
        assert differ(roses, sunflowers)

    def test_guidance_changes_the_images(self, labelled, images_of):
        plain, guided = (
            images_of(labelled, "--class", "1", "--num-images", 2, "--guidance", strength)
            for strength in (0, 3)
        )
        assert differ(plain, guided)

    def test_images_of_classes_are_guided_by_default(self, labelled, images_of):
        for classes in ((), ("--class", "1")):
            default, guided, plain = (
                images_of(labelled, *classes, "--num-images", 2, *guidance)
                for guidance in ((), ("--guidance", generate.GUIDANCE), ("--guidance", 0))
            )
            assert not differ(default, guided)
            assert differ(default, plain)

    def test_images_on_the_way_between_two_noises_are_not(self, labelled, images_of):
        arguments = ("--class", "1", "--interpolate", 5, "--num-images", 3)
        default, plain = (
            images_of(labelled, *arguments, *guidance) for guidance in ((), ("--guidance", 0))
        )
        assert not differ(default, plain)

    def test_a_row_holds_one_class(self, labelled, images_of, monkeypatch):
        grids = []
        monkeypatch.setattr(
            "ddim_keras.plots.figures.image_grid",
            lambda *arguments, names: grids.append((*arguments, names)) or Figure(),
        )
        images_of(labelled, "--class", "rose", "sunflower", "--num-images", 26, "--steps", 1)
        ((pixels, _, columns, names),) = grids
        assert (len(pixels), columns, names) == (52, 13, ["rose", "sunflower"])

    def test_names_go_before_numbers(self):
        assert class_index("1", ("1", "10", "2"), 3) == 0
        assert class_index("2", ("1", "10", "2"), 3) == 2
        assert class_index("0", ("1", "10", "2"), 3) == 0

    def test_names_and_numbers(self):
        assert [class_index(text, NAMES, 3) for text in ("rose", "SWEET PEA", "1")] == [2, 1, 1]
        with pytest.raises(InputError, match="no class 'roze'; did you mean 'rose'"):
            class_index("roze", NAMES, 3)
        with pytest.raises(InputError, match=r"class 3 does not exist: .* numbers 0 to 2"):
            class_index("3", NAMES, 3)

    def test_a_model_without_labels_has_no_classes(self, unlabelled):
        for arguments in (("--class", "rose"), ("--guidance", "2")):
            error = run(generate, "--run", unlabelled.folder, *arguments)
            assert "trained without labels" in error
            assert "--class-conditional" in error


class TestSampling:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("--sampler", "ipndm"),
            ("--sampler", "heun"),
            ("--spacing", "rho"),
            ("--last-signal-rate", 0.999),
            ("--eta", 1),
        ],
    )
    def test_options_change_the_images(self, unlabelled, images_of, arguments):
        plain = images_of(unlabelled, "--num-images", 2)
        changed = images_of(unlabelled, "--num-images", 2, *arguments)
        assert differ(plain, changed)
        assert not differ(changed, images_of(unlabelled, "--num-images", 2, *arguments))

    def test_a_wrong_name_is_refused_with_the_nearest(self, capsys, monkeypatch):
        monkeypatch.setattr(generate, "import_keras", None)  # before Keras is imported
        assert run(generate, "--sampler", "dpmsolver") == 2
        assert "did you mean 'dpm_solver'?" in capsys.readouterr().err.splitlines()[-1]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--sampler", "heun", "--eta", 1), "eta belongs to the sampler ddim, not to heun"),
            (("--eta", 2), r"eta must be in [0, 1], not 2.0"),
            (("--last-signal-rate", 1.5), "the last signal rate must be between 0.02 and 1"),
            (("--trajectory", "film.mp4"), "--trajectory must end in .gif or .png"),
            (("--encode", "nowhere.png"), "there is no image file nowhere.png"),
        ],
    )
    def test_mistakes_are_one_line(self, unlabelled, arguments, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        error = run(generate, "--run", unlabelled.folder, *arguments)
        assert message in error
        assert "\n" not in error
        assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["film.gif", "film.png"])
def test_a_trajectory_has_a_frame_for_each_step(unlabelled, images_of, tmp_path, name):
    path = tmp_path / "new" / name
    images_of(unlabelled, "--num-images", 6, "--batch-size", 2, "--steps", 5, "--trajectory", path)
    with Image.open(path) as film:
        assert film.n_frames == 5
        first = np.asarray(film.convert("RGB")).astype(float)
        film.seek(4)
        last = np.asarray(film.convert("RGB")).astype(float)
    # Left the noisy images, right those predicted from them, of about the final colour throughout.
    half = first.shape[1] // 2
    assert np.abs(np.diff(first[:, :half], axis=0)).mean() > np.abs(np.diff(last, axis=0)).mean()


def test_an_interpolation_goes_from_seed_to_seed(unlabelled, images_of):
    path = images_of(unlabelled, "--num-images", 7, "--seed", 1, "--interpolate", 2)
    ends = [images_of(unlabelled, "--num-images", 1, "--seed", seed)[0] for seed in (1, 2)]
    assert not differ(path[0], ends[0])
    assert not differ(path[-1], ends[1])
    steps = np.abs(np.diff(path.astype(float), axis=0)).mean(axis=(1, 2, 3))
    assert steps.max() < np.abs(ends[1].astype(float) - ends[0]).mean()


def test_an_image_is_encoded_and_decoded(labelled, photo, tmp_path, capsys):
    def error(steps):
        assert (
            run(generate, *("--run", labelled.folder, "--encode", photo, "--steps", steps), *output)
            == 0
        )
        printed = capsys.readouterr().out
        return float(printed.split("reconstruction error ")[1].split()[0])

    output = ("--output", tmp_path / "encoded.png")
    few, many = error(4), error(40)
    assert many < few
    assert Image.open(tmp_path / "encoded.png").width > 3 * 4 * SIZE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num-images", 2), "leave --num-images away"),
        (("--eta", 0.5), "leave --eta away"),
        (("--trajectory", "a.gif"), "leave --trajectory away"),
        (("--steps", 1), "at least 2 --steps"),
    ],
)
def test_encoding_refuses_what_it_has_no_use_for(unlabelled, photo, arguments, message):
    status = run(generate, "--run", unlabelled.folder, "--encode", photo, *arguments)
    assert message in status


def test_an_image_is_filled_in_without_a_class_unless_one_is_given(
    labelled, images_of, photo, monkeypatch
):
    calls = []
    generate_images = DiffusionModel.generate
    monkeypatch.setattr(
        DiffusionModel,
        "generate",
        lambda *arguments, **options: (
            calls.append(options) or generate_images(*arguments, **options)
        ),
    )
    for classes in ((), ("--class", "rose")):
        images_of(labelled, "--inpaint", photo, photo, "--num-images", 2, *classes)
    assert [list(call["labels"]) for call in calls] == [[-1, -1], [2, 2]]
    assert [call["guidance"].strength for call in calls] == [0.0, generate.GUIDANCE]


def test_a_worse_model_guides(unlabelled, labelled, images_of, tmp_path):
    images = ("--num-images", 2, "--seed", 3)
    plain = images_of(unlabelled, *images)
    itself = images_of(unlabelled, *images, "--guide", unlabelled.folder)
    assert np.abs(plain.astype(int) - itself.astype(int)).max() <= 1
    # A model of the same data whose weights are smaller.
    worse = make_run(tmp_path / "worse", num_classes=0)
    model = DiffusionModel(worse.read_config().model)
    load_weights(model, worse.last_weights)
    for weight in model.ema_network.weights:
        weight.assign(0.8 * weight.value)
    save_weights(model, worse.last_weights)
    assert differ(plain, images_of(unlabelled, *images, "--guide", worse.last_weights))
    error = run(generate, "--run", unlabelled.folder, "--guide", labelled.folder)
    assert "cannot guide this model: its num_classes is 3, not 0" in error
    error = run(generate, "--run", unlabelled.folder, "--guide", tmp_path / "none.weights.h5")
    assert error == f"error: there is no weights file {tmp_path / 'none.weights.h5'}"


def test_an_image_is_filled_in(unlabelled, images_of, photo, tmp_path):
    mask = np.zeros((40, 40), "uint8")
    mask[:, 20:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    filled = images_of(unlabelled, "--num-images", 2, "--inpaint", photo, tmp_path / "mask.png")
    known = crop_and_resize(np.asarray(Image.open(photo)), SIZE)
    np.testing.assert_allclose(filled[:, :, : SIZE // 2], [known[:, : SIZE // 2]] * 2, atol=2)
    assert differ(filled[0, :, SIZE // 2 :], filled[1, :, SIZE // 2 :])


def test_images_of_another_call_do_not_stay_among_the_new_ones(unlabelled, tmp_path):
    options = ("--run", unlabelled.folder, "--steps", 1, "--output", tmp_path / "grid.png")
    folder = tmp_path / "images"
    assert run(generate, *options, "--images-dir", folder, "--num-images", 3) == 0
    assert run(generate, *options, "--images-dir", folder, "--num-images", 3) == 0
    status = run(generate, *options, "--images-dir", folder, "--num-images", 2)
    assert "holds 00002.png of another set" in status
    assert len(list(folder.iterdir())) == 3


def test_names_of_folders_are_no_formulas(tmp_path):
    named = make_run(tmp_path / "a$x^{$b", num_classes=0)
    output = tmp_path / "grid.png"
    assert run(generate, "--run", named.folder, "--steps", 1, "--output", output) == 0
    assert output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "."), "is a folder"),
        (("--output", "a.png", "--trajectory", "a.png"), "two files"),
        (("--images-dir", __file__), "is a file"),
    ],
)
def test_files_are_checked_before_the_work(unlabelled, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    arguments = ["folder.png" if argument == "." else argument for argument in arguments]
    assert message in run(generate, "--run", unlabelled.folder, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_what_is_no_image_is_refused(unlabelled, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    error = run(generate, "--run", unlabelled.folder, "--encode", tmp_path / "text.png")
    assert "text.png cannot be read as an image" in error
