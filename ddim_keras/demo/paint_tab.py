"""The tab Paint: painted areas of a photograph or a generated image are filled in."""

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ddim_keras.config import InputError
from ddim_keras.demo import page
from ddim_keras.demo.models import Models
from ddim_keras.generation.given import GivenImages

CANVAS = 512  # height and width of the editor in pixels
MOST_IMAGES, NUM_IMAGES = 8, 4
STEPS, RESAMPLE = 25, 3  # see "Fill in" of docs/sampling.md


def mask_of(edited: dict[str, Any], image_size: int) -> np.ndarray:
    """The mask of the painted area: (image_size, image_size, 1) float32, 1 where painted.

    Raises:
        InputError: if nothing was painted.
    """
    touched = np.zeros((image_size, image_size), "float32")
    for layer in edited["layers"]:
        alpha = layer.convert("RGBA").getchannel("A")
        shares = alpha.resize((image_size, image_size), Image.Resampling.BOX)
        touched = np.maximum(touched, np.asarray(shares) > 0)
    if not touched.any():
        raise InputError("nothing is painted over yet: paint over what should change")
    return touched[..., None]


def files(image: np.ndarray, mask: np.ndarray, grid: np.ndarray, command: str) -> bytes:
    """A zip file with the command, its input and its output."""
    content = {
        "image.png": page.png(image.squeeze()),
        "mask.png": page.png((255 * mask[..., 0]).astype("uint8")),
        "generated.png": page.png(grid),
        "command.sh": f"{command}\n".encode(),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file.getvalue()


def canvas_of(image: np.ndarray) -> dict[str, Any]:
    """The editor's value for an image (H, W, C) uint8: enlarged and unpainted."""
    size = (CANVAS, CANVAS)
    background = Image.fromarray(image.squeeze()).convert("RGB")
    background = background.resize(size, Image.Resampling.NEAREST)
    return {"background": background, "layers": [], "composite": background}


def paint_tab(models: Models) -> None:
    """Builds the tab."""
    state = gr.State(None, time_to_live=3600)  # the image (H, W, C) uint8
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            model = page.model_choice(models)
            class_name = page.class_choice(models, model, "Class of the filled-in part")
            number = gr.Slider(1, MOST_IMAGES, NUM_IMAGES, step=1, label="Results")
            steps = gr.Slider(5, 50, STEPS, step=1, label="Steps")
            resample = gr.Slider(
                1,
                10,
                RESAMPLE,
                step=1,
                label="Repetitions",
                info="more: smoother seam, but slower",
            )
            seed = page.seed_choice()
        with gr.Column(scale=2, min_width=CANVAS + 32):
            with gr.Row():
                upload = gr.UploadButton("Upload a photograph", size="md", file_types=["image"])
                draw = gr.Button("Generate one", size="md")
            editor = gr.ImageEditor(
                type="pil",
                label="Paint over what should change",
                sources=(),
                transforms=(),
                layers=False,
                brush=gr.Brush(64, colors=["#ff2d78"], color_mode="fixed"),
                canvas_size=(CANVAS, CANVAS),
                fixed_canvas=True,
                height=CANVAS + 100,
                buttons=[],
                elem_id="editor",
            )
            start, stop = page.start_and_stop("Fill in")
        with gr.Column(scale=2, min_width=300):
            live = gr.HTML(page.empty("First an image, then your brush, then: Fill in."))
            download = gr.HTML()
            command = page.command_shown()

    @page.in_a_sentence
    def take(path: str, name: str) -> tuple[Any, ...]:
        image = page.uploaded(models, name, path)
        return image, canvas_of(image)

    @page.in_a_sentence
    def draw_one(name: str, class_name: str, seed: int) -> tuple[Any, ...]:
        job = models.job(page.words_of(name, class_=class_name, num_images=1, steps=10, seed=seed))
        (image,) = np.round(255 * job.images(lambda *frame: None)).astype("uint8")
        return image, canvas_of(image)

    @page.in_a_sentence
    def fill_in(
        image: np.ndarray | None,
        edited: dict[str, Any],
        name: str,
        class_name: str,
        number: int,
        steps: int,
        resample: int,
        seed: int,
    ) -> Iterator[dict[Any, Any]]:
        if image is None:
            raise InputError("there is no image yet: upload a photograph, or generate one")
        page.require_fitting(models, name, image)
        mask = mask_of(edited, image.shape[0])
        line = page.words_of(
            name,
            inpaint=["image.png", "mask.png"],
            class_=class_name,
            num_images=number,
            steps=steps,
            resample=resample,
            seed=seed,
        )
        job = models.job(line, GivenImages(image[None], mask))
        making = page.Making(job, job.images, job.options.network_steps, columns=2)
        text = page.command(models, line)
        for html in making:
            yield {live: html, command: gr.Code(text, visible=True), download: ""}
        grid = page.picture(making.result, columns=2)
        content = files(image, mask, grid, text)
        yield {
            live: page.figures(f"Done, {making.seconds:.1f} s", results=grid),
            download: page.download("filled_in.zip", content, "Download pictures and command"),
        }

    upload.upload(take, [upload, model], [state, editor])
    draw.click(draw_one, [model, class_name, seed], [state, editor], **page.COMPUTES)
    run = start.click(
        fill_in,
        [state, editor, model, class_name, number, steps, resample, seed],
        [live, command, download],
        show_progress="hidden",
        **page.COMPUTES,
    )
    stop.click(None, cancels=run, queue=False)
