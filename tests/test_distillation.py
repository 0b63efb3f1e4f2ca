import dataclasses
import errno
import signal
import types
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import ops

import evaluate
import generate
import train
from ddim_keras.cli.train import new_run, parse_arguments
from ddim_keras.config import InputError, ModelConfig, NetworkConfig, TrainingConfig
from ddim_keras.data.cache import Dataset
from ddim_keras.distillation import (
    Student,
    met_rates,
    student_config,
    student_rates,
)
from ddim_keras.model import DiffusionModel
from ddim_keras.runs.folder import Run, load_model
from ddim_keras.samplers import Sampler
from ddim_keras.training import loop, trajectories
from ddim_keras.training.callbacks import Interrupted
from ddim_keras.training.trajectories import draw_trajectories, teacher_rates
from tests.helpers import denoiser, make_run, run, standard_normal

TINY = ModelConfig(network=NetworkConfig(image_size=8, widths=(8,), depths=(1,)))
DEVIATION = 0.5  # of normally distributed data, per pixel


def noisy_variance(rates):
    return (DEVIATION * rates) ** 2 + 1 - rates**2


def perfect(noisy_images, noise_rates, signal_rates):
    return DEVIATION**2 * signal_rates * noisy_images / noisy_variance(signal_rates)


def test_a_trajectory_is_the_solution_of_the_differential_equation():
    teacher = types.SimpleNamespace(
        config=ModelConfig(), num_classes=0, compiled_denoise=denoiser(perfect)
    )
    rates = met_rates(student_config(teacher.config, 4))
    noises = standard_normal(50).astype("float32")
    states = draw_trajectories(teacher, noises, np.full(50, -1), rates, guidance=1.0)
    states = np.split(states, 5, axis=-1)
    np.testing.assert_array_equal(states[0], noises)
    for state, rate in zip(states[:4], rates, strict=False):
        scale = np.sqrt(noisy_variance(rate) / noisy_variance(rates[0]))
        np.testing.assert_allclose(state, scale * noises, rtol=0.01)
    cleanest = np.sqrt(noisy_variance(0.95) / noisy_variance(rates[0])) * noises
    np.testing.assert_allclose(states[4], perfect(cleanest, None, 0.95), rtol=0.01)


def test_the_students_steps_are_those_of_ddim_and_the_teacher_meets_them():
    config = student_config(TINY, 4)
    rates = student_rates(config, 4)
    assert rates == met_rates(config)
    np.testing.assert_allclose(rates, [0.02, 0.3638, 0.6629, 0.8805, 1], atol=1e-4)
    np.testing.assert_allclose(rates, Sampler().signal_rates(Student(config), 4))
    fine = teacher_rates(rates, 0.95)
    assert len(fine) == 12
    assert fine == sorted(fine)
    assert all(min(abs(rate - each) for each in fine) < 1e-9 for rate in rates)
    with pytest.raises(InputError, match="choose fewer --student-steps"):
        teacher_rates(rates, 0.8)


def test_a_student_of_several_meets_its_teacher_where_any_of_its_steps_ends():
    config = student_config(TINY, 1, 2, 3, 4)
    rates = met_rates(config)
    assert len(rates) == 7  # after 0, 1/4, 1/3, 1/2, 2/3 and 3/4 of the way, and at the end
    assert rates == sorted(rates)
    assert rates[-1] == 1
    for steps in config.student_steps:
        for rate in student_rates(config, steps):
            assert min(abs(rate - each) for each in rates) < 1e-6


@pytest.mark.parametrize("counts", [(3,), (1, 2, 4)])
def test_a_student_that_makes_the_teachers_steps_has_no_loss(counts, monkeypatch):
    student = Student(student_config(TINY, *counts))
    student.compile(loss="mae")
    assert student.updates_per_batch == sum(counts)
    rates = met_rates(student.config)
    gains = np.linspace(1, 0.3, len(rates))  # of the noises, at each rate
    noises = standard_normal(4).astype("float32")
    seen = []

    def denoise(noisy_images, noise_rates, signal_rates, training, labels, steps):
        """Both parts of the noisy images, such that the next step ends where the teacher is."""
        seen.append((steps, ops.convert_to_numpy(noisy_images)))
        step = sum(each == steps for each, _ in seen) - 1
        signal, next_signal = student_rates(student.config, steps)[step : step + 2]
        noise, next_noise = np.sqrt(1 - signal**2), np.sqrt(1 - next_signal**2)
        gain, next_gain = np.interp([signal, next_signal], rates, gains)
        parts = np.linalg.solve([[signal, noise], [next_signal, next_noise]], [1, next_gain / gain])
        return parts[1] * noisy_images, parts[0] * noisy_images

    monkeypatch.setattr(student, "denoise", denoise)
    states = [gain * noises for gain in gains]

    def losses_of(states):
        seen.clear()
        trajectories = np.concatenate(states, axis=-1).astype("float32")
        losses = student.follow(trajectories, lambda compare: compare(None, training=False)[1])
        return {name: float(loss) for name, loss in losses.items()}

    of_images = {"trajectory_loss": 0.5 * len(counts) / sum(counts), "image_loss": 0.5}
    assert losses_of([*states[:-1], states[-1] + 0.5]) == pytest.approx(of_images, abs=1e-5)
    assert losses_of(states) == pytest.approx({"trajectory_loss": 0, "image_loss": 0}, abs=1e-6)
    assert [steps for steps, _ in seen] == [steps for steps in counts for _ in range(steps)]
    starts = [rate for steps in counts for rate in student_rates(student.config, steps)[:-1]]
    for rate, (_, met) in zip(starts, seen, strict=True):
        np.testing.assert_allclose(met, np.interp(rate, rates, gains) * noises, rtol=1e-4)


def test_a_student_of_several_begins_as_its_teacher_and_is_told_its_number_of_steps():
    network = NetworkConfig(image_size=8, widths=(8,), depths=(1,), block="adaptive", num_classes=2)
    teacher = DiffusionModel(ModelConfig(network=network))
    student = Student(student_config(teacher.config, 1, 2))
    for model in (teacher, student):
        for weight in model.ema_network.weights:
            if "step_embedding" not in weight.path:
                shape = weight.shape
                weight.assign(np.random.default_rng(len(shape)).normal(0, 0.3, shape))
    noises = np.random.default_rng(0).standard_normal((3, 8, 8, 3), dtype="float32")
    noises = ops.convert_to_tensor(noises)
    rates = [ops.full((3, 1, 1, 1), rate) for rate in (0.8, 0.6)]
    labels = np.array([0, 1, -1])
    expected = teacher.denoise(noises, *rates, training=False, labels=labels)

    def told(steps):
        found = student.compiled_denoise_in[steps](noises, *rates, labels=labels)
        return [ops.convert_to_numpy(each) for each in found]

    for steps in (1, 2):
        for one, other in zip(told(steps), expected, strict=True):
            np.testing.assert_allclose(one, ops.convert_to_numpy(other), rtol=1e-4, atol=1e-4)
    (embedding,) = (w for w in student.ema_network.weights if "step_embedding" in w.path)
    embedding.assign(np.stack([np.zeros(embedding.shape[1]), np.ones(embedding.shape[1])]))
    assert np.abs(told(1)[0] - told(2)[0]).max() > 1e-2
    np.testing.assert_allclose(told(1)[0], ops.convert_to_numpy(expected[0]), rtol=1e-4, atol=1e-4)
    assert student.generate(3, 1, seed=0).shape == student.generate(3, seed=0).shape
    draws = [ops.convert_to_numpy(student.reverse_diffusion(noises, steps)) for steps in (1, 2)]
    generated = [
        student.generate(3, steps, initial_noise=noises, labels=[-1] * 3) for steps in (1, 2)
    ]
    for drawn, images in zip(draws, generated, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(student.denormalize(drawn)), images, atol=1e-5
        )
    with pytest.raises(InputError, match="generates in 1 or 2 steps of ddim"):
        student.generate(3, 3)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_a_student_of_several_takes_all_weights_of_its_teacher(num_classes, tmp_path):
    """Though one more embedding changes the order in which the network lists them."""
    source = make_run(tmp_path / "teacher", num_classes, block="adaptive")
    student = loop.build_model(
        student_config(source.read_config().model, 1, 2), TrainingConfig(), total_steps=1
    )
    loop.take_weights(student, source)
    teacher = load_model(source.last_weights)
    noises = np.random.default_rng(0).standard_normal((3, 16, 16, 3), dtype="float32")
    given = [ops.convert_to_tensor(noises), *(ops.full((3, 1, 1, 1), x) for x in (0.8, 0.6))]
    labels = np.array([0, 1, -1]) if num_classes else None
    expected, _ = teacher.denoise(*given, training=False, labels=labels)
    for training in (True, False):  # the trained network, and the average
        found, _ = student.denoise(*given, training=training, labels=labels, steps=1)
        np.testing.assert_allclose(
            *map(ops.convert_to_numpy, (found, expected)), rtol=1e-4, atol=1e-5
        )


def test_a_new_student_of_several_has_an_embedding_for_its_number_of_steps(place):
    for steps, count in (("2", 0), ("1 2 4", 3)):
        words = ("--distill-from", str(place / "teacher"), "--student-steps", *steps.split())
        _, config = new_run(parse_arguments(words), "student")
        assert config.model.network.step_counts == count
        assert config.model.student_steps == tuple(map(int, steps.split()))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a teacher, and with a student of it that has been trained."""
    place = tmp_path_factory.mktemp("place")
    teacher = make_run(place / "teacher", num_classes=3)
    teacher.save_config(dataclasses.replace(teacher.read_config(), class_names=()))
    images = np.random.default_rng(0).integers(0, 255, (60, 16, 16, 3), dtype="uint8")
    np.savez(place / "images.npz", images=images, labels=np.arange(60) % 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajectories, "HELD_OUT", 16)
        patch.setattr(trajectories, "AT_ONCE", 16)
        assert distil(place, "student") == 0
    return place


def distil(place, name, *options):
    return run(
        train,
        *("--distill-from", place / "teacher", "--student-steps", 2, "--trajectories", 64),
        *("--batch-size", 16, "--epochs", 2, "--warmup-steps", 0, "--precision", "float32"),
        *("--dataset", place / "images.npz", "--cache-dir", place / "cache", "--no-kid"),
        *("--output", place / name, *options),
    )


def test_a_student_approaches_its_teacher(place):
    history = Run(place / "student").read_history()
    assert [row["images"] for row in history] == [64, 128]
    for name in ("trajectory_loss", "val_trajectory_loss", "val_image_loss"):
        assert history[1][name] < history[0][name]
    report = (place / "student" / "report.md").read_text()
    assert "noisy images of the teacher teacher at guidance 1, in 2 calls" in report
    assert "Trajectory loss" in report
    student = load_model(Run(place / "student").weights_to_show())
    teacher = load_model(Run(place / "teacher").weights_to_show())
    np.testing.assert_array_equal(student.pixel_means, teacher.pixel_means)
    images = student.generate(4, seed=0)
    np.testing.assert_array_equal(images, student.generate(4, 2, seed=0, guidance=0.0))
    other_process = {"reverse_process": student.reverse_diffusion}
    for options in ({"diffusion_steps": 3}, {"sampler": "ipndm"}, {"guidance": 1.0}, other_process):
        with pytest.raises(InputError, match="generates in 2 steps of ddim without guidance"):
            student.generate(4, **options)
    with pytest.raises(InputError, match="generates in 2 steps of ddim without guidance"):
        student.reverse_diffusion(student.draw_noise(4, np.random.default_rng(0)), 3)


@pytest.mark.slow
def test_an_interrupted_student_ends_as_an_uninterrupted_one(place, tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories, "HELD_OUT", 16)
    config = Run(place / "student").read_config()
    dataset = Dataset("none", *[np.zeros((0, 16, 16, 3))] * 4, ())
    lessons = trajectories.with_trajectories(dataset, config, place / "cache")  # as cached
    stopped = Run(tmp_path / "stopped")
    stopped.save_config(config)

    def press_ctrl_c(batch, logs):
        if batch == 1:
            signal.raise_signal(signal.SIGINT)

    press = keras.callbacks.LambdaCallback(on_train_batch_end=press_ctrl_c)
    with pytest.raises(Interrupted):
        loop.train(stopped, config, lessons, callbacks=[press])
    model = loop.train(stopped, config, lessons)
    expected = load_model(Run(place / "student").last_weights).ema_network.get_weights()
    for weight, value in zip(model.ema_network.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_trajectories_are_drawn_on_where_a_process_was_killed(place, tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories, "HELD_OUT", 16)
    monkeypatch.setattr(trajectories, "AT_ONCE", 16)
    config = Run(place / "student").read_config()
    draw_batch, starts = trajectories.draw_batch, []

    def killed_in_the_third(teacher, config, rates, start):
        starts.append(start)
        if len(starts) == 3:
            raise KeyboardInterrupt
        return draw_batch(teacher, config, rates, start)

    monkeypatch.setattr(trajectories, "draw_batch", killed_in_the_third)
    dataset = Dataset("none", *[np.zeros((0, 16, 16, 3))] * 4, ())
    with pytest.raises(KeyboardInterrupt):
        trajectories.with_trajectories(dataset, config, tmp_path)
    # The rest fits on the disk: its blocks are reserved, since a map cannot report a full disk.
    (states,) = tmp_path.glob("trajectories-*/states.npy")
    assert 512 * states.stat().st_blocks >= states.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full_disk)
        with pytest.raises(OSError, match="No space left"):
            trajectories.with_trajectories(dataset, config, tmp_path)
    lessons = trajectories.with_trajectories(dataset, config, tmp_path)
    assert starts == [0, 16, 32, 32, 48, 64]
    whole = trajectories.with_trajectories(dataset, config, place / "cache")
    np.testing.assert_allclose(lessons.train_images, whole.train_images, atol=2e-3)
    np.testing.assert_array_equal(lessons.train_labels, whole.train_labels)
    assert lessons.train_images.shape == (64, 16, 16, 9)
    assert lessons.validation_images.shape == (16, 16, 16, 9)
    assert {-1, 0, 1, 2} == {*whole.train_labels.tolist()}  # some without a class


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_trajectories_that_do_not_fit_take_no_space(tmp_path, monkeypatch):
    monkeypatch.setattr("os.posix_fallocate", full_disk)
    teacher = types.SimpleNamespace(network=types.SimpleNamespace(input_shape=[(None, 8, 8, 3)]))
    with pytest.raises(OSError, match="No space left"):
        trajectories.draw(tmp_path, teacher, None, [0.5, 1.0], 80)
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_with_one_cache_one_draws(place, tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories, "HELD_OUT", 16)
    config = Run(place / "student").read_config()
    dataset = Dataset("none", *[np.zeros((0, 16, 16, 3))] * 4, ())
    draw_batch, starts, others = trajectories.draw_batch, [], []

    def meet_another(teacher, config, rates, start):
        if not starts:
            others.append(pool.submit(trajectories.with_trajectories, dataset, config, tmp_path))
            with pytest.raises(TimeoutError):
                others[0].result(timeout=0.5)  # it waits
        starts.append(start)
        return draw_batch(teacher, config, rates, start)

    monkeypatch.setattr(trajectories, "draw_batch", meet_another)
    with ThreadPoolExecutor() as pool:
        lessons = trajectories.with_trajectories(dataset, config, tmp_path)
        other = others[0].result()
    assert starts == [0, 64]
    np.testing.assert_array_equal(other.train_images, lessons.train_images)
    assert np.all(np.any(lessons.train_images, axis=(1, 2, 3)))


@pytest.mark.parametrize(
    ("command", "options", "refused"),
    [
        (generate, ("--steps", 20), "--steps 20"),
        (generate, ("--sampler", "ipndm"), "--sampler"),
        (generate, ("--spacing", "rho"), "--spacing"),
        (generate, ("--eta", 1), "--eta"),
        (generate, ("--guidance", 1), "--guidance"),
        (generate, ("--inpaint", "a.png", "b.png"), "--inpaint"),
        (generate, ("--encode", "a.png"), "--encode"),
        (generate, ("--from-image", "a.png"), "--from-image"),
        (evaluate, ("--steps", 2, 20), "--steps 20"),
        (evaluate, ("--samplers", "ddim", "heun"), "--samplers"),
        (evaluate, ("--search-steps", 5), "--search-steps"),
        (evaluate, ("--metrics", "bits_per_dim"), "--metrics"),
    ],
)
def test_what_a_student_has_not_learnt_is_refused(place, command, options, refused):
    error = run(command, "--run", place / "student", *options)
    assert f"in 2 steps of ddim without guidance and does not support {refused};" in error
    assert error.endswith(f"use its teacher: --run {place / 'teacher'}")


@pytest.mark.slow
def test_a_student_of_several_is_trained_and_draws_in_each(place, tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories, "HELD_OUT", 16)
    monkeypatch.setattr(trajectories, "AT_ONCE", 16)
    assert distil(place, "several", "--student-steps", 1, 2, "--epochs", 1) == 0
    report = (place / "several" / "report.md").read_text()
    assert "at guidance 1, in 1 or 2 calls" in report
    (row,) = Run(place / "several").read_history()
    assert row["images"] == 64
    student = load_model(Run(place / "several").weights_to_show())
    one, two = (student.generate(4, steps, seed=0) for steps in (1, 2))
    assert np.abs(one - two).max() > 0.01
    for steps in (1, 2):
        folder = tmp_path / str(steps)
        options = ("--run", place / "several", "--steps", steps, "--images-dir", folder)
        assert run(generate, *options, "--num-images", 4, "--output", tmp_path / "a.png") == 0
        assert len(list(folder.glob("*.png"))) == 4
    assert "generates in 1 or 2 steps of ddim" in run(
        generate, "--run", place / "several", "--steps", 3
    )


def test_a_student_takes_its_own_steps(place, tmp_path, capsys):
    options = ("--run", place / "student", "--output", tmp_path / "a.png", "--num-images", 2)
    assert run(generate, *options) == 0
    assert "2 steps of ddim" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--student-steps", 4), "needs both --distill-from RUN and --student-steps N"),
        (("--preset", "student"), "needs both"),
        (("--distill-from", "flowers", "--student-steps", 4, "--widths", 8), "omit --widths"),
        (("--distill-from", "flowers", "--student-steps", 4, "--preset", "lab"), "omit --preset"),
        (("--distill-from", "flowers", "--student-steps", 2, 1), "must be in rising order"),
        (("--distill-from", "{student}", "--student-steps", 2), "a student cannot teach"),
    ],
)
def test_mistakes_of_a_new_student_are_one_line(place, tmp_path, options, message):
    options = [str(option).format(student=place / "student") for option in options]
    assert message in run(train, *options, "--output", tmp_path / "new")


def test_a_student_is_resumed_with_its_own_settings_alone(place):
    error = run(train, "--resume", "--output", place / "student", "--student-steps", 4)
    assert "cannot resume with --student-steps 4: the run uses 2" in error
