"""What generate.py does besides a plain grid: classes, samplers, animations, editing."""

import unicodedata

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import generate
from ddim_keras import DiffusionModel, draw_flowers
from ddim_keras.cli.generate import NUM_EDITED
from ddim_keras.cli.options import class_index
from ddim_keras.config import GUIDANCE, InputError
from ddim_keras.data.images import crop_and_resize
from ddim_keras.generation import editing_jobs, pictures
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


@pytest.fixture
def other_photo(tmp_path):
    path = tmp_path / "other.png"
    Image.fromarray(draw_flowers(2, 40)[0][1]).save(path)
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
                for guidance in ((), ("--guidance", GUIDANCE), ("--guidance", 0))
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

    def test_a_prime_number_of_images_is_no_column(self, labelled, images_of, monkeypatch):
        grids = []
        monkeypatch.setattr(
            "ddim_keras.plots.figures.image_grid",
            lambda pixels, title, columns, names: grids.append((pixels, columns)) or Figure(),
        )
        classes = ("--class", "rose", "sunflower", "--num-images", 23)
        images = images_of(labelled, *classes, "--steps", 1)
        ((pixels, columns),) = grids
        assert (len(pixels), columns) == (2 * 28, 7)  # the second class begins a row
        np.testing.assert_array_equal(pixels[:23], images[:23])
        np.testing.assert_array_equal(pixels[28:51], images[23:])
        assert (pixels[23:28] == 255).all()

    def test_names_go_before_numbers(self):
        assert class_index("1", ("1", "10", "2"), 3) == 0
        assert class_index("2", ("1", "10", "2"), 3) == 2
        assert class_index("0", ("1", "10", "2"), 3) == 0

    def test_exact_names_go_first_and_ambiguous_ones_are_refused(self):
        names = ("Rose", "bee", "rose")
        assert [class_index(text, names, 3) for text in ("Rose", "rose", "BEE")] == [0, 2, 1]
        with pytest.raises(InputError, match="'ROSE' may be any of 'Rose', 'rose'"):
            class_index("ROSE", names, 3)

    def test_names_and_numbers(self):
        assert [class_index(text, NAMES, 3) for text in ("rose", "SWEET PEA", "1")] == [2, 1, 1]
        with pytest.raises(InputError, match="no class 'roze'; did you mean 'rose'"):
            class_index("roze", NAMES, 3)
        with pytest.raises(InputError, match=r"class 3 does not exist: .* numbers 0 to 2"):
            class_index("3", NAMES, 3)

    def test_an_umlaut_may_be_one_character_or_two(self):
        folder, typed = (unicodedata.normalize(form, "Gänseblume") for form in ("NFD", "NFC"))
        assert folder != typed
        assert class_index(typed, ("rose", folder), 2) == 1

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
            (("--sampler", "heun", "--eta", 1), "eta is an option of the sampler ddim, not"),
            (("--eta", 2), r"eta must be in [0, 1], not 2.0"),
            (("--last-signal-rate", 1.5), "the last signal rate must be between 0.02 and 1"),
            (("--trajectory", "film.mp4"), "--trajectory must end in .gif or .png"),
            (("--encode", "nowhere.png"), "there is no image file nowhere.png"),
            (("--guidance-interval", 0.5, 0.9), "only guidance uses --guidance-interval; omit it"),
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


def test_each_class_has_a_whole_interpolation(labelled, images_of):
    path = ("--interpolate", 2, "--num-images", 4)
    both = images_of(labelled, "--class", "rose", "sunflower", *path)
    assert len(both) == 8
    for images, name in zip(np.split(both, 2), ("rose", "sunflower"), strict=True):
        assert not differ(images, images_of(labelled, "--class", name, *path))


def test_an_image_is_encoded_and_decoded(labelled, photo, tmp_path, capsys):
    def error(steps):
        output = ("--output", tmp_path / "encoded.png")
        arguments = ("--run", labelled.folder, "--encode", photo, "--steps", steps, *output)
        assert run(generate, *arguments, "--sampler", "ddim") == 0
        printed = capsys.readouterr().out
        deviation = float(printed.split("deviation of the noise ")[1].split(",")[0])
        assert deviation > 0.5
        return float(printed.split("reconstruction error ")[1].split()[0])

    few, many = error(4), error(40)
    assert many < few
    assert Image.open(tmp_path / "encoded.png").width > 4 * 3 * SIZE


def test_the_path_between_two_encoded_images(labelled, photo, other_photo, images_of):
    arguments = ("--encode", photo, other_photo, "--steps", 20)
    path = images_of(labelled, *arguments, "--num-images", 3, "--class", "rose")
    assert path.shape == (3, SIZE, SIZE, 3)
    ends = [crop_and_resize(np.asarray(Image.open(each)), SIZE) for each in (photo, other_photo)]
    for index in (0, 2):
        distances = [np.abs(path[index].astype(float) - end).mean() for end in ends]
        assert np.argmin(distances) == index // 2
    assert len(images_of(labelled, *arguments)) == NUM_EDITED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--encode", "{photo}", "--num-images", 2), "--encode with one image does not use --nu"),
        (
            ("--encode", "{photo}", "--images-dir", "a"),
            "--encode with one image does not use --i",
        ),
        (("--encode", "{photo}", "--eta", 0.5), "--encode does not use --eta"),
        (("--encode", "{photo}", "--trajectory", "a.gif"), "--encode does not use --trajectory"),
        (("--encode", "{photo}", "--steps", 1), "at least 2 --steps"),
        (("--encode", *["{photo}"] * 3), "takes one or two images, not 3"),
        (("--inpaint", "{photo}", "{photo}", "--sampler", "ipndm"), "does not use --sampler"),
        (("--inpaint", "{photo}", "{photo}", "--eta", 1), "does not use --eta"),
        (
            ("--inpaint", "{photo}", "{photo}", "--strength", 0.5),
            "only --from-image uses --strength",
        ),
        (("--from-image", "{photo}", "--resample", 3), "only --inpaint uses --resample"),
        (("--strength", 0.5), "only --from-image uses --strength; omit it"),
        (("--from-image", "{photo}", "--spacing", "searched"), "no steps have been searched"),
        (("--from-image", "{photo}", "--output", "{photo}"), "would replace an image that was gi"),
        (("--inpaint", "{photo}", "{mask}", "--trajectory", "{mask}"), "would replace an image th"),
    ],
)
def test_editing_refuses_what_it_has_no_use_for(
    unlabelled, photo, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    mask = tmp_path / "mask.png"
    mask.write_bytes(photo.read_bytes())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    arguments = [str(each).format(photo=photo, mask=mask) for each in arguments]
    assert message in str(run(generate, "--run", unlabelled.folder, *arguments))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_given_image_is_never_replaced(unlabelled, photo, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "00001.png").write_bytes(photo.read_bytes())
    (tmp_path / "link.png").symlink_to(photo)
    options = ("--run", unlabelled.folder, "--num-images", 2)
    for given, output in (
        (folder / "00001.png", ("--images-dir", folder)),
        (photo, ("--output", tmp_path / "link.png")),
        (tmp_path / "link.png", ("--output", tmp_path / "folder" / ".." / "photo.png")),
    ):
        assert "would replace" in str(run(generate, *options, "--from-image", given, *output))
    assert (folder / "00001.png").read_bytes() == photo.read_bytes()


def test_variations_of_an_image_are_the_further_the_stronger(unlabelled, images_of, photo):
    known = crop_and_resize(np.asarray(Image.open(photo)), SIZE).astype(float)
    distances = []
    for strength in (0.05, 0.3, 1):
        arguments = ("--from-image", photo, "--strength", strength, "--num-images", 2)
        images = images_of(unlabelled, *arguments)
        assert differ(images[0], images[1])
        distances.append(np.abs(images - known).mean())
    assert distances == sorted(distances)
    # With nothing of the image left, they are those of the seed alone.
    plain = images_of(unlabelled, "--num-images", 2)
    assert np.abs(images.astype(float) - plain).mean() < 10


@pytest.mark.parametrize("job", ["inpaint", "from-image"])
def test_an_image_is_edited_without_a_class_unless_one_is_given(
    labelled, images_of, photo, monkeypatch, job
):
    calls = []
    denoiser, generate_images = editing_jobs.denoiser, DiffusionModel.generate

    def record(model, labels, guidance):
        calls.append((list(labels), guidance.strength))
        return denoiser(model, labels, guidance)

    def record_generate(model, *arguments, labels, guidance, **options):
        calls.append((list(labels), guidance.strength))
        options |= {"labels": labels, "guidance": guidance}
        return generate_images(model, *arguments, **options)

    monkeypatch.setattr(editing_jobs, "denoiser", record)
    monkeypatch.setattr(DiffusionModel, "generate", record_generate)
    given = (photo, photo) if job == "inpaint" else (photo,)
    for classes in ((), ("--class", "rose")):
        images_of(labelled, f"--{job}", *given, "--num-images", 2, *classes)
    assert calls == [([-1, -1], 0.0), ([2, 2], GUIDANCE)]


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
    (worse.folder / "manifest.json").write_text('{"last.weights.h5": ["another"]}')
    error = run(generate, "--run", unlabelled.folder, "--guide", worse.folder)
    assert "with --no-verify" in error
    assert differ(plain, images_of(unlabelled, *images, "--guide", worse.folder, "--no-verify"))
    error = run(generate, "--run", unlabelled.folder, "--guide", labelled.folder)
    assert "cannot guide this model: its num_classes is 3, not 0" in error
    error = run(generate, "--run", unlabelled.folder, "--guide", tmp_path / "none.weights.h5")
    assert error == f"error: there is no weights file {tmp_path / 'none.weights.h5'}"


def test_an_image_is_filled_in(unlabelled, images_of, photo, tmp_path):
    mask = np.zeros((40, 40), "uint8")
    mask[:, 20:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    arguments = ("--inpaint", photo, tmp_path / "mask.png", "--num-images", 3)
    filled = images_of(unlabelled, *arguments)
    known = crop_and_resize(np.asarray(Image.open(photo)), SIZE)
    kept = np.flatnonzero(crop_and_resize(mask, SIZE)[0, :, 0] == 0)
    assert len(kept) >= SIZE // 2 - 1  # the next column merges pixels of both sides
    np.testing.assert_array_equal(filled[:, :, kept], [known[:, kept]] * 3)
    assert differ(filled[0, :, SIZE // 2 :], filled[1, :, SIZE // 2 :])
    # The noise of an image is its own.
    one_by_one = images_of(unlabelled, *arguments, "--batch-size", 1)
    assert np.abs(filled.astype(int) - one_by_one).max() <= 1
    again = images_of(unlabelled, *arguments, "--resample", 1)
    assert differ(filled, again)


def test_a_black_mask_is_refused(unlabelled, photo, tmp_path):
    Image.fromarray(np.zeros((40, 40), "uint8")).save(tmp_path / "mask.png")
    arguments = ("--inpaint", photo, tmp_path / "mask.png")
    assert "mask.png is black" in run(generate, "--run", unlabelled.folder, *arguments)


def test_images_of_another_call_do_not_stay_among_the_new_ones(unlabelled, tmp_path):
    options = ("--run", unlabelled.folder, "--steps", 1, "--output", tmp_path / "grid.png")
    folder = tmp_path / "images"
    assert run(generate, *options, "--images-dir", folder, "--num-images", 3) == 0
    assert run(generate, *options, "--images-dir", folder, "--num-images", 3) == 0
    status = run(generate, *options, "--images-dir", folder, "--num-images", 2)
    assert "holds 00002.png of another set" in status
    assert len(list(folder.iterdir())) == 3


def test_an_interrupted_generation_goes_on_where_it_stopped(unlabelled, tmp_path, monkeypatch):
    def generate_into(name, *more):
        return run(
            generate,
            *("--run", unlabelled.folder, "--steps", 2, "--batch-size", 3, "--num-images", 8),
            *("--eta", 1, "--images-dir", tmp_path / name, "--output", tmp_path / f"{name}.png"),
            *more,
        )

    assert generate_into("whole") == 0
    write, calls = pictures.write_images, []

    def write_twice(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "write_images", write_twice)
        assert generate_into("part") == 130
    assert "holds a part of other images" in generate_into("part", "--seed", 1)
    images_before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "part").iterdir()}
    assert generate_into("part") == 0
    for path in (tmp_path / "whole").iterdir():
        other = tmp_path / "part" / path.name
        assert other.read_bytes() == path.read_bytes()
        kept = path.name in ("00000.png", "00001.png", "00005.png")
        assert not kept or other.stat().st_mtime_ns == images_before[path.name]
    assert len(list((tmp_path / "part").iterdir())) == 8
    grids = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("whole", "part")]
    np.testing.assert_array_equal(*grids)


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
