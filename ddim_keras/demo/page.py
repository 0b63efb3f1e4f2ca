"""Page elements shared by the tabs: pictures, choices, buttons and error messages."""

import base64
import functools
import html
import inspect
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ddim_keras.cli.options import command_line
from ddim_keras.config import InputError
from ddim_keras.data.images import load_image
from ddim_keras.demo.models import Models
from ddim_keras.demo.streaming import Frame, streamed
from ddim_keras.generation.jobs import Job
from ddim_keras.plots.figures import tiled
from ddim_keras.types import Callback

ANY_CLASS = "any, as often as in training"
COMMAND = "Command that makes the same"
LARGEST_SEED = 2**31 - 1
# All computations wait in one queue.
COMPUTES: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
FONTS = ("DejaVu Sans", "Segoe UI", "Helvetica", "Arial", "sans-serif")
THEME = gr.themes.Default(
    primary_hue="rose", neutral_hue="stone", font=FONTS, font_mono=("DejaVu Sans Mono", "monospace")
)
CSS = """
.pictures { display: flex; gap: 16px; flex-wrap: wrap; }
.pictures figure { flex: 1 1 240px; margin: 0; max-width: 440px; }
.pictures img { width: 100%; image-rendering: pixelated; border-radius: 6px; }
.pictures figcaption { font-weight: 600; margin-bottom: 6px; }
.status { color: var(--body-text-color-subdued); margin: 0 0 10px; min-height: 1.5em; }
.empty { border: 2px dashed var(--border-color-primary); border-radius: 8px; padding: 72px 16px;
  text-align: center; color: var(--body-text-color-subdued); }
.strip img { width: 100%; max-width: 900px; image-rendering: pixelated; }
.strength { display: flex; align-items: center; gap: 12px; }
.strength span { width: 2.5em; text-align: right; font-weight: 600; }
.strength img { flex: 1; min-width: 0; max-width: 900px; image-rendering: pixelated; }
.download { display: inline-block; padding: 8px 16px; border-radius: 8px; margin: 4px 8px 4px 0;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color);
  text-decoration: none; }
.note { margin: 0 0 10px; }
#gallery .grid-wrap { min-height: 0 !important; margin-top: 28px; }
#gallery .thumbnail-item { aspect-ratio: auto; }
#gallery .thumbnail-item img { height: auto; }
#editor { user-select: none; }
footer { display: none !important; }
"""


def picture(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Images (N, H, W, C) in one picture without margins, enlarged: (height, width, 3) uint8."""
    zoom = max(1, 256 // images.shape[2])
    return tiled(images, columns, zoom)[zoom:-zoom, zoom:-zoom]


def png(pixels: np.ndarray, compress_level: int = 6) -> bytes:
    """A PNG file of (height, width) or (height, width, 3) uint8 pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=compress_level)
    return file.getvalue()


def source_of(pixels: np.ndarray) -> str:
    """A picture as the source of an HTML image, so that no file is written for it."""
    return "data:image/png;base64," + base64.b64encode(png(pixels, 1)).decode()


def figures(status: str, **pictures: np.ndarray) -> str:
    """HTML: a line of text, and pictures under their names."""
    parts = "".join(
        f"<figure><figcaption>{html.escape(name.replace('_', ' ').capitalize())}</figcaption>"
        f'<img src="{source_of(pixels)}" alt="{html.escape(name)}"></figure>'
        for name, pixels in pictures.items()
    )
    return f'<p class="status">{html.escape(status)}</p><div class="pictures">{parts}</div>'


def strip(pixels: np.ndarray, text: str) -> str:
    """HTML: a wide picture."""
    return f'<div class="strip"><img src="{source_of(pixels)}" alt="{html.escape(text)}"></div>'


def download(name: str, content: bytes, text: str) -> str:
    """HTML: a button that saves a file, which the page itself holds."""
    source = "data:application/octet-stream;base64," + base64.b64encode(content).decode()
    return f'<a class="download" download="{name}" href="{source}">{html.escape(text)}</a>'


def note(text: str) -> str:
    """HTML: a sentence about what is shown below it."""
    return f'<p class="note">{html.escape(text)}</p>'


def empty(text: str) -> str:
    """HTML: a placeholder that says what will appear here."""
    return f'<div class="empty">{html.escape(text)}</div>'


@dataclass
class Making:
    """A running job: yields HTML of the noisy and the predicted images at each network call.

    Args:
        job: gives the model.
        work: called as `work(callback)`.
        calls: total number of network calls.
        columns: images per row.

    Attributes:
        result: result of `work`, after the iteration.
        frames: frames of all network calls.
        seconds: time since the start.
    """

    job: Job
    work: Callable[[Callback], Any]
    calls: int
    columns: int | None = None
    result: Any = None
    frames: list[Frame] = field(default_factory=list)
    seconds: float = 0.0

    def __iter__(self) -> Iterator[str]:
        start = time.perf_counter()
        yield empty("One moment: the model starts.")

        def work(callback: Callback) -> None:
            self.result = self.work(callback)

        for frame in streamed(self.job.model, work):
            self.frames.append(frame)
            self.seconds = time.perf_counter() - start
            yield self.html(f"Network call {len(self.frames)} of {self.calls}")

    def html(self, status: str) -> str:
        """The newest frame, under a line starting with `status`."""
        frame = self.frames[-1]
        return figures(
            f"{status}, {self.seconds:.1f} s",
            noisy_images=picture(frame.noisy_images, self.columns),
            predicted_images=picture(frame.pred_images, self.columns),
        )


def in_a_sentence(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Shows a user's mistake as a message on the page."""

    def told(error: InputError) -> gr.Error:
        return gr.Error(str(error), title="This does not work", print_exception=False)

    @functools.wraps(handler)
    def iterate(*arguments: Any) -> Any:
        try:
            yield from handler(*arguments)
        except InputError as error:
            raise told(error) from error

    @functools.wraps(handler)
    def call(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except InputError as error:
            raise told(error) from error

    return iterate if inspect.isgeneratorfunction(handler) else call


# Choices, and the command-line words for them.


def model_choice(models: Models, with_students: bool = False) -> gr.Dropdown:
    """A choice of models; students can only generate."""

    def names() -> list[str]:
        return models.names(with_students)

    first = names()[0]
    choice = gr.Dropdown(names(), value=first, label="Model")

    def offered() -> gr.Dropdown:
        now = names()
        return gr.Dropdown(now, value=first if first in now else now[0])

    # When the page is loaded, for runs that were trained, or removed, meanwhile.
    gr.on(None, offered, None, choice, queue=False)
    return choice


def class_choice(models: Models, model: gr.Dropdown, label: str = "Class") -> gr.Dropdown:
    """A choice of the classes of the chosen model, which follows that choice."""

    @in_a_sentence
    def choices(name: str) -> gr.Dropdown:
        config = models.config(name)
        numbers = range(config.model.network.num_classes)
        names = [*config.class_names, *map(str, numbers[len(config.class_names) :])]
        return gr.Dropdown(
            [ANY_CLASS, *sorted(names)], value=ANY_CLASS, interactive=bool(names), label=label
        )

    choice = gr.Dropdown(
        [ANY_CLASS], value=ANY_CLASS, label=label, num_choices_shown=None, elem_classes="class"
    )
    gr.on(None, choices, model, choice, queue=False)  # when the page is loaded as well
    return choice


def seed_choice(label: str = "Seed", value: int = 0) -> gr.Number:
    """A seed, with a button for a new one."""
    with gr.Group():
        seed = gr.Number(value, label=label, precision=0, minimum=0, maximum=LARGEST_SEED)
        another = gr.Button("Another seed", size="sm")
    another.click(None, None, seed, js="() => Math.floor(1e6 * Math.random())", queue=False)
    return seed


def uploaded(models: Models, name: str, path: str) -> np.ndarray:
    """An uploaded image, cropped and resized for a model: (H, W, C) uint8.

    Raises:
        InputError: if it is not an image; the message does not show the server's path.
    """
    network = models.config(name).model.network
    try:
        return load_image(Path(path), network.image_size, network.channels)
    except InputError as error:
        reason = str(error).replace(path, Path(path).name)
        raise InputError(
            f"{reason}. Choose another file, such as a JPEG or PNG with 8 bits per channel"
        ) from error


def require_fitting(models: Models, name: str, image: np.ndarray) -> None:
    """Raises InputError for an image (H, W, C) that was prepared for a model of another size."""
    network = models.config(name).model.network
    if image.shape != (network.image_size, network.image_size, network.channels):
        raise InputError(
            "the image was prepared for another model, of another size or without colours; upload "
            "or generate it again"
        )


def words_of(model: str, **options: Any) -> list[str]:
    """The command line of generate.py for choices; None is omitted.

    Args:
        options: by the names of generate.py, with `class_` for --class.
    """
    words = ["--run", model]
    for name, value in options.items():
        if value is None or value == ANY_CLASS:
            continue
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{name.strip('_').replace('_', '-')}", *(f"{each}" for each in values)]
    return words


def command(models: Models, words: Sequence[str]) -> str:
    """A command line of generate.py to copy."""
    precision = [] if models.precision == "float32" else ["--precision", models.precision]
    return command_line(["python", "generate.py", *words, *precision])


def start_and_stop(text: str) -> tuple[gr.Button, gr.Button]:
    """Buttons that start and stop a job."""
    with gr.Row():
        return gr.Button(text, variant="primary", scale=2), gr.Button("Stop", scale=1, min_width=80)


def command_shown() -> gr.Code:
    """A box for a command, to copy or download."""
    return gr.Code(
        label=COMMAND,
        language="shell",
        lines=1,
        interactive=False,
        wrap_lines=True,
        show_line_numbers=False,
        buttons=["copy", "download"],
        visible=False,
    )
