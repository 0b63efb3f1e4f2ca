"""The tab Between: interpolation between two seeds, classes or photographs, with a slider."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import numpy as np

from ddim_keras.cli.options import class_index
from ddim_keras.config import InputError
from ddim_keras.demo import page
from ddim_keras.demo.models import Models
from ddim_keras.generation.given import GivenImages
from ddim_keras.guidance import between_classes
from ddim_keras.types import Callback

NUM_IMAGES = 9  # on the path, including both ends
STEPS = 20
SEEDS, CLASSES, PHOTOGRAPHS = "two seeds", "two classes", "two photographs"


def making_of_seeds(
    models: Models, name: str, class_name: str, seed: int | None, other_seed: int | None
) -> tuple[page.Making, str]:
    """Images between the noises of two seeds, and the command."""
    if seed is None or other_seed is None:
        raise InputError("two seeds are needed; a field is empty")
    line = page.words_of(
        name,
        class_=class_name,
        num_images=NUM_IMAGES,
        steps=STEPS,
        seed=seed,
        interpolate=other_seed,
    )
    job = models.job(line)
    return page.Making(job, job.images, STEPS), page.command(models, line)


def making_of_classes(
    models: Models, name: str, class_name: str, other_class: str, seed: int | None
) -> tuple[page.Making, str]:
    """Images from one noise between two classes, and the program."""
    if seed is None:
        raise InputError("the seed is empty; give a number")
    config = models.config(name)
    if page.ANY_CLASS in (class_name, other_class):
        raise InputError("choose two classes; models without classes have seeds and photographs")
    first, second = (
        class_index(each, config.class_names, config.model.network.num_classes)
        for each in (class_name, other_class)
    )
    job = models.job(page.words_of(name, num_images=NUM_IMAGES, steps=STEPS, seed=seed))
    noise = job.model.draw_noise(1, np.random.default_rng(seed))

    def work(callback: Callback) -> np.ndarray:
        return job.model.generate(
            NUM_IMAGES,
            STEPS,
            labels=np.full(NUM_IMAGES, -1),
            guidance=between_classes(first, second),
            initial_noise=np.repeat(noise, NUM_IMAGES, axis=0),
            callback=callback,
        )

    program = (
        "import numpy as np\n"
        "from ddim_keras import load_model\n"
        "from ddim_keras.guidance import between_classes\n"
        "from ddim_keras.runs.folder import find_weights\n\n"
        f"model = load_model(find_weights({name!r}))\n"
        f"noise = model.draw_noise(1, np.random.default_rng({seed}))\n"
        f"images = model.generate({NUM_IMAGES}, {STEPS}, labels=np.full({NUM_IMAGES}, -1),\n"
        f"                        guidance=between_classes({first}, {second}),\n"
        f"                        initial_noise=np.repeat(noise, {NUM_IMAGES}, axis=0))"
    )
    return page.Making(job, work, STEPS), program


def making_of_photographs(
    models: Models, name: str, class_name: str, given: list[np.ndarray | None]
) -> tuple[page.Making, str]:
    """Images between the codes of two photographs, and the command."""
    photographs = [each for each in given if each is not None]
    if len(photographs) < 2:
        raise InputError("upload two photographs first")
    for photograph in photographs:
        page.require_fitting(models, name, photograph)
    line = page.words_of(
        name,
        encode=["first.png", "second.png"],
        class_=class_name,
        num_images=NUM_IMAGES,
        steps=STEPS,
    )
    job = models.job(line)

    def work(callback: Callback) -> np.ndarray:
        return job.between(job.encoded(GivenImages(np.stack(photographs)), callback), callback)

    # There, back with and without the added noise, and the path.
    return page.Making(job, work, 4 * STEPS - 2), page.command(models, line)


def between_tab(models: Models) -> None:
    """Builds the tab."""
    images = gr.State([], time_to_live=3600)  # HTML for each position of the slider
    given = gr.State([None, None], time_to_live=3600)  # (H, W, C) uint8 each
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            model = page.model_choice(models)
            kind = gr.Radio([SEEDS, CLASSES, PHOTOGRAPHS], value=SEEDS, label="From one to another")
            class_name = page.class_choice(models, model)
            with gr.Group(visible=False) as of_classes:
                other_class = page.class_choice(models, model, "Other class")
            with gr.Group() as of_noises:
                seed = page.seed_choice(value=1)
            with gr.Group() as of_seeds:
                other_seed = page.seed_choice("Other seed", 2)
            with gr.Column(visible=False) as of_photographs:
                with gr.Row():
                    uploads = [
                        gr.UploadButton(text, file_types=["image"], size="md")
                        for text in ("First photograph", "Second photograph")
                    ]
                thumbnails = gr.HTML()
            start, stop = page.start_and_stop("Interpolate")
        with gr.Column(scale=3):
            slider = gr.Slider(
                0,
                1,
                0.5,
                step=1 / (NUM_IMAGES - 1),
                label="From the first to the second",
                visible=False,
            )
            live = gr.HTML(page.empty("Nine images from the first to the second will appear here."))
            strip, download = gr.HTML(), gr.HTML()
            command = page.command_shown()

    def show_choices(kind: str) -> list[Any]:
        shown = (kind == CLASSES, kind != PHOTOGRAPHS, kind == SEEDS)
        groups = [gr.Group(visible=each) for each in shown]
        return [*groups, gr.Column(visible=kind == PHOTOGRAPHS)]

    def taken(number: int) -> Callable[..., Any]:
        def take(path: str, name: str, given: list[np.ndarray | None]) -> tuple[Any, ...]:
            image = page.uploaded(models, name, path)
            # The other one may have been prepared for a model of another size.
            given = [None if each is None or each.shape != image.shape else each for each in given]
            given[number] = image
            grey = np.full_like(image, 200)
            both = np.stack([grey if image is None else image for image in given])
            return given, page.strip(page.picture(both), "the photographs as the model sees them")

        return page.in_a_sentence(take)

    @page.in_a_sentence
    def find(
        kind: str,
        given: list[np.ndarray | None],
        name: str,
        class_name: str,
        other_class: str,
        seed: int | None,
        other_seed: int | None,
    ) -> Iterator[dict[Any, Any]]:
        if kind == SEEDS:
            making, text = making_of_seeds(models, name, class_name, seed, other_seed)
        elif kind == CLASSES:
            making, text = making_of_classes(models, name, class_name, other_class, seed)
        else:
            making, text = making_of_photographs(models, name, class_name, given)
        making.columns = 3
        code = gr.Code(text, language="shell", label=page.COMMAND, visible=True)
        if kind == CLASSES:
            code = gr.Code(text, language="python", label="Program for the same", visible=True)
        for html in making:
            yield {
                live: html,
                command: code,
                strip: "",
                download: "",
                slider: gr.Slider(visible=False),
            }
        path = page.picture(making.result, NUM_IMAGES)
        pictures = [page.picture(each[None]) for each in making.result]
        of_positions = [
            page.figures(
                f"Done, {making.seconds:.1f} s. Image {number} of {NUM_IMAGES}",
                first=pictures[0],
                between=between,
                second=pictures[-1],
            )
            for number, between in enumerate(pictures, 1)
        ]
        yield {
            live: of_positions[NUM_IMAGES // 2],
            slider: gr.Slider(value=0.5, visible=True),
            strip: page.strip(path, "all nine images"),
            download: page.download("between.png", page.png(path), "Download the picture"),
            images: of_positions,
        }

    def show(images: list[str], position: float) -> str:
        return images[round(position * (NUM_IMAGES - 1))]

    kind.change(show_choices, kind, [of_classes, of_noises, of_seeds, of_photographs], queue=False)
    for number, upload in enumerate(uploads):
        upload.upload(taken(number), [upload, model, given], [given, thumbnails])
    run = start.click(
        find,
        [kind, given, model, class_name, other_class, seed, other_seed],
        [live, slider, strip, download, command, images],
        show_progress="hidden",
        **page.COMPUTES,
    )
    stop.click(None, cancels=run, queue=False)
    slider.input(show, [images, slider], live, queue=False, show_progress="hidden")
