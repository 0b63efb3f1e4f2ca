"""The figures of the course: what they show is what the schedules do."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from keras import ops
from PIL import Image

from ddim_keras.config import GUIDANCE, SCHEDULES, InputError, ModelConfig, NetworkConfig
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.foreign import printable
from ddim_keras.plots import figures
from ddim_keras.plots.__main__ import (
    forward_figure,
    main,
    parse_arguments,
    reverse_figure,
    schedule_rates,
)
from ddim_keras.runs.folder import load_model
from ddim_keras.schedules import schedule_of
from tests.helpers import EPOCH, make_run


def shown(axes):
    return np.asarray(axes.images[0].get_array())


def test_the_forward_process_goes_from_the_flower_to_noise():
    options = parse_arguments(["forward", "--image-size", "16", "--columns", "4", "--index", "3"])
    figure = forward_figure(options)
    panels = np.array(figure.axes).reshape(3, 4)
    flower = draw_flowers(4, 16)[0][3] / 255
    for row, name in zip(panels, SCHEDULES, strict=True):
        assert row[0].get_ylabel() == name.replace("_", " ")
        distances = [np.abs(shown(axes) - flower).mean() for axes in row]
        assert np.all(np.diff(distances) > 0)
    # The published schedules start at the image itself, and all end at one noise.
    for row in panels[1:]:
        np.testing.assert_allclose(shown(row[0]), flower, atol=0.003)
    for row in panels[1:]:
        np.testing.assert_allclose(shown(row[-1]), shown(panels[0, -1]), atol=0.03)
    assert [axes.get_title() for axes in panels[0]][::3] == ["time 0", "time 1"]


def test_an_image_file_and_a_data_set_can_be_shown(tmp_path, flowers_file):
    flower = draw_flowers(1, 16)[0][0]
    Image.fromarray(flower).save(tmp_path / "flower.png")
    common = ["--image-size", "16", "--columns", "2", "--schedule", "linear"]
    for source in (
        ["--image", str(tmp_path / "flower.png")],
        ["--dataset", str(flowers_file), "--cache-dir", str(tmp_path)],
    ):
        figure = forward_figure(parse_arguments(["forward", *common, *source]))
        assert len(figure.axes) == 2
        assert shown(figure.axes[0]).shape == (16, 16, 3)
        assert shown(figure.axes[0]).std() > 0.05


def test_grey_images_are_drawn():
    images = np.linspace(-0.1, 1.1, 2 * 8 * 8).reshape(2, 8, 8, 1)
    figure = figures.process_rows({"linear": images}, np.array([0.0, 1.0]), {"linear": [1.0, 0.1]})
    assert shown(figure.axes[0]).shape == (8, 8, 3)


def test_the_curves_are_those_of_the_schedules():
    times = np.linspace(0, 1, 11)
    rates = schedule_rates(SCHEDULES, times)
    signal_axes, ratio_axes = figures.schedule_curves(times, rates).axes
    for index, name in enumerate(SCHEDULES):
        alpha_bars = signal_axes.lines[index].get_ydata()
        log_snr = ratio_axes.lines[index].get_ydata()
        assert signal_axes.lines[index].get_label() == name.replace("_", " ")
        assert np.all(np.isfinite(log_snr))
        middle = slice(1, -1)
        np.testing.assert_allclose(
            alpha_bars[middle], 1 / (1 + np.exp(-log_snr[middle])), rtol=1e-3
        )


@pytest.mark.parametrize("figure", ["forward", "schedules"])
def test_the_commands_write_a_picture(figure, tmp_path):
    output = tmp_path / "new" / "figure.png"
    main([figure, "--schedule", "cosine", "--output", str(output)])
    with Image.open(output) as picture:
        assert min(picture.size) > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "figure.jpg"], "--output must end in .png, not 'figure.jpg'"),
        (["--image", "nowhere.png"], "there is no image file nowhere.png"),
        (["--image", __file__], "test_figures.py cannot be read as an image"),
        (["--dataset", "nowhere/at/all"], "there is no folder or file nowhere/at/all"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        main(["forward", *arguments])


def test_the_module_runs_and_reports_mistakes_in_one_line():
    result = subprocess.run(
        [sys.executable, "-m", "ddim_keras.plots", "forward", "--output", "figure.jpg"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.strip() == "error: --output must end in .png, not 'figure.jpg'"


def test_samples_are_written_as_a_grid_and_as_an_array(tmp_path):
    images, _ = draw_flowers(32, 12)
    path = tmp_path / "samples" / "grid.png"
    figures.save_samples(images / np.float32(255), "a title", path)
    np.testing.assert_array_equal(figures.read_samples(path), images)
    assert np.asarray(Image.open(path)).std() > 10
    path.with_suffix(".npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"grid\.npy is not an array of samples"):
        figures.read_samples(path)


def test_the_diagram_of_a_network_names_its_levels():
    config = NetworkConfig(widths=(8, 16, 32), depths=(1, 2, 3), attention_sizes=(16,))
    figure = figures.network_diagram(config, 12345)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("32 x 32, 16 channels\n2 plain blocks") == 2
    assert texts.count("16 x 16, 32 channels\n3 plain blocks\nwith self-attention") == 1
    assert "12,345 parameters" in figure.axes[0].get_title()


def test_a_data_set_is_shown_by_class(tmp_path, capsys):
    images, labels = draw_flowers(60, 16)
    np.savez(tmp_path / "a.npz", images=images, labels=labels % 2, class_names=["odd", "even"])
    output = tmp_path / "data.png"
    where = ["--cache-dir", str(tmp_path), "--image-size", "16", "--output", str(output)]
    main(["data", "--dataset", str(tmp_path / "a.npz"), *where, "--columns", "4"])
    printed = capsys.readouterr().out
    assert "48 training and 12 validation images, 16x16x3" in printed
    assert "2 classes of" in printed
    assert Image.open(output).height > 2 * 2 * 17


def test_classes_without_a_name_are_shown_by_number(tmp_path):
    images, labels = draw_flowers(20, 16)
    np.savez(tmp_path / "a.npz", images=images, labels=labels % 2, class_names=["even"])
    output = tmp_path / "data.png"
    where = ["--cache-dir", str(tmp_path), "--image-size", "16", "--output", str(output)]
    main(["data", "--dataset", str(tmp_path / "a.npz"), *where])
    assert output.exists()


def test_names_stand_beside_their_rows(tmp_path):
    images, _ = draw_flowers(6, 16)
    figure = figures.image_grid(images, "title", columns=2, names=["one", "a longer name", "three"])
    figures.save_figure(figure, tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))
    tiles = figures.tiled(images, columns=2)
    height, width, _ = tiles.shape
    np.testing.assert_array_equal(picture[-height:, -width:], tiles)
    for row in np.split(picture[-height + 1 : -1, :-width], 3):
        ink = np.nonzero((row < 128).any(axis=(1, 2)))[0]
        assert np.mean([ink.min(), ink.max()]) == pytest.approx(len(row) / 2, abs=4)


def test_the_curves_of_a_run(tmp_path):
    run = make_run(tmp_path / "run", num_classes=0)
    options = ["curves", "--run", str(run.folder), "--output", str(tmp_path / "curves.png")]
    with pytest.raises(InputError, match="has no history yet"):
        main(options)
    run.write_history([{**EPOCH, "epoch": epoch, "noise_loss": 0.5 / epoch} for epoch in (1, 2)])
    main(options)
    assert np.asarray(Image.open(tmp_path / "curves.png")).std() > 10


@pytest.mark.parametrize(("last", "scale"), [(0.02, "log"), (0.04, "linear"), (-0.01, "linear")])
def test_the_axis_of_kid_has_numbers(last, scale):
    losses = dict.fromkeys(("noise_loss", "image_loss", "val_noise_loss", "val_image_loss"), 0.5)
    history = [
        {"epoch": epoch, "kid": kid, "kid_standard_error": 0.001, **losses}
        for epoch, kid in enumerate((0.3, last), start=1)
    ]
    figure = figures.training_curves(history, "KID")
    figure.canvas.draw()
    _, axes = figure.axes
    assert axes.get_yscale() == scale
    labels = axes.get_yticklabels() + axes.get_yticklabels(minor=True)
    bottom, top = axes.get_ylim()
    assert len([label for label in labels if bottom <= label.get_position()[1] <= top]) >= 3


def test_a_student_of_several_has_a_curve_for_each_number_of_steps():
    losses = dict.fromkeys(("noise_loss", "image_loss", "val_noise_loss", "val_image_loss"), 0.5)
    measured = {"kid": 0.02, "kid_standard_error": 0.001, "kid_1_steps": 0.5, "kid_2_steps": 0.1}
    history = [{"epoch": 1, **losses, **measured}, {"epoch": 2, **losses}]
    _, axes = figures.training_curves(history, "KID").axes
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {
        *("most steps", "1 steps", "2 steps")
    }
    bottom, top = axes.get_ylim()
    assert bottom < 0.02
    assert top > 0.5


def test_the_reverse_process_ends_at_the_image_of_generate(tmp_path):
    run = make_run(tmp_path / "run", num_classes=3)
    options = ["reverse", "--run", str(run.folder), "--steps", "4", "--seed", "2"]
    figure = reverse_figure(parse_arguments(options))
    noisy, predicted = np.array(figure.axes).reshape(2, 4)
    assert [axes.get_title() for axes in noisy] == [f"time {1 - k / 4:g}" for k in range(4)]
    model = load_model(run.weights_to_show())
    noise = model.draw_noise(1, np.random.default_rng(2))
    start = ops.convert_to_numpy(model.denormalize(noise))[0]
    np.testing.assert_allclose(shown(noisy[0]), start, atol=1e-6)
    image = model.generate(3, 4, seed=2, guidance=GUIDANCE)[0]
    np.testing.assert_allclose(shown(predicted[-1]), image, atol=1e-5)
    assert np.abs(shown(noisy[-1]) - image).max() > 0.01


def test_a_student_is_shown_in_the_steps_it_has_learnt(monkeypatch):
    config = ModelConfig(student_steps=(2, 4))

    def generate(num_images, steps, *, seed, callback):
        for step in range(steps):
            callback(step, np.zeros((1, 8, 8, 3)), np.ones((1, 8, 8, 3)))

    student = SimpleNamespace(
        config=config, schedule=schedule_of(config), denormalize=np.asarray, generate=generate
    )
    monkeypatch.setattr("ddim_keras.plots.__main__.load_model", lambda weights: student)
    figure = reverse_figure(parse_arguments(["reverse", "--run", "flowers-few"]))
    assert len(figure.axes) == 2 * 4


def test_the_evolution_shows_the_same_noises_over_the_epochs(tmp_path):
    folder = tmp_path / "run"
    run = make_run(folder, num_classes=0)
    size = run.read_config().model.network.image_size
    options = ["evolution", "--run", str(folder), "--output", str(tmp_path / "evolution.png")]
    with pytest.raises(InputError, match="holds no samples yet"):
        main(options)
    for epoch in range(1, 31):
        images = np.full((32, size, size, 3), 8 * epoch, "uint8")
        images[1] = 255 - images[1]
        path = folder / "samples" / f"epoch_{epoch:04d}.png"
        figures.save_samples(images, f"epoch {epoch}", path)
    main([*options, "--rows", "2", "--columns", "4"])
    picture = np.asarray(Image.open(tmp_path / "evolution.png").convert("RGB"))
    rows = [picture[row * 2 * (size + 1) - 2 * size, : 8 * (size + 1)] for row in (-1, 0)]
    middles = size + 2 * (size + 1) * np.arange(4)
    expected = 8 * np.array([1, 3, 10, 30])
    np.testing.assert_array_equal(rows[1][middles][:, 0], 255 - expected)
    np.testing.assert_array_equal(rows[0][middles][:, 0], expected)


def test_names_that_are_no_utf8_stand_in_figures_and_texts(tmp_path):
    name = b"rose\xff".decode(errors="surrogateescape")
    figures.save_figure(
        figures.image_grid(np.zeros((1, 8, 8, 3)), name, names=[name]), tmp_path / "grid.png"
    )
    assert (tmp_path / "grid.png").stat().st_size
    assert printable(f"{name}, Übung") == r"rose\udcff, Übung"


def test_lines_of_one_sampler_can_be_told_apart():
    rows = [
        {"setting": f"ipndm {number}", "sampler": "ipndm", "network_calls": calls, "kid": 0.1}
        for number in range(6)
        for calls in (5, 10)
    ]
    (axes,) = figures.by_network_calls(rows, {"kid": "KID"}, {"kid": 0.0}).axes
    lines = [container.lines[0] for container in axes.containers]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 6
