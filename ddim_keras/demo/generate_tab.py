"""The tab Generate: images forming step by step, a gallery, and the command for each image."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ddim_keras.config import GUIDANCE, SAMPLERS
from ddim_keras.demo import page
from ddim_keras.demo.models import Models

MOST_IMAGES, MOST_STEPS, MOST_IN_GALLERY = 32, 50, 12
NUM_IMAGES, STEPS, SAMPLER = 8, 10, "ipndm"  # chosen initially


def words(
    models: Models,
    name: str,
    class_name: str = page.ANY_CLASS,
    num_images: int = NUM_IMAGES,
    steps: int = STEPS,
    sampler: str = SAMPLER,
    guidance: float | None = None,
    seed: int = 0,
) -> list[str]:
    """The command line of generate.py for the choices of this tab."""
    model = models.config(name).model
    is_free = not model.student_steps
    return page.words_of(
        name,
        class_=class_name,
        num_images=num_images,
        steps=steps if is_free else None,
        sampler=sampler if is_free else None,
        guidance=guidance if is_free and model.network.num_classes else None,
        seed=seed,
    )


def generate_tab(models: Models) -> None:
    """Builds the tab."""
    state = gr.State([], time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            model = page.model_choice(models, with_students=True)
            class_name = page.class_choice(models, model)
            number = gr.Slider(1, MOST_IMAGES, NUM_IMAGES, step=1, label="Images")
            steps = gr.Slider(1, MOST_STEPS, STEPS, step=1, label="Steps")
            sampler = gr.Dropdown(list(SAMPLERS), value=SAMPLER, label="Sampler")
            guidance = gr.Slider(
                0,
                4,
                GUIDANCE,
                step=0.5,
                label="Guidance",
                info="0: none; more: more typical of the class, less varied",
            )
            seed = page.seed_choice()
            start, stop = page.start_and_stop("Generate")
        with gr.Column(scale=3):
            live = gr.HTML(page.empty("Flowers will form here, out of noise."), elem_id="live")
            command = page.command_shown()
            download = gr.HTML()
            gallery = gr.Gallery(
                label="Gallery: what you made so far; click one for its command",
                columns=4,
                height="auto",
                object_fit="contain",
                fit_columns=False,
                visible=False,
                buttons=["download"],
                interactive=False,
                elem_id="gallery",
            )

    @page.in_a_sentence
    def allow(name: str) -> list[Any]:
        """The choices of a model; a student has fixed steps and guidance."""
        model = models.config(name).model
        is_free = not model.student_steps
        return [
            gr.Slider(value=max(model.student_steps, default=STEPS), interactive=is_free),
            gr.Dropdown(value=SAMPLER if is_free else "ddim", interactive=is_free),
            gr.Slider(interactive=is_free and bool(model.network.num_classes)),
        ]

    gr.on(None, allow, model, [steps, sampler, guidance], queue=False)

    @page.in_a_sentence
    def generate(history: list[Any], *choices: Any) -> Iterator[dict[Any, Any]]:
        line = words(models, *choices)
        job = models.job(line)
        making = page.Making(job, job.images, job.options.network_steps)
        text = page.command(models, line)
        for html in making:
            yield {live: html, command: gr.Code(text, visible=True), download: ""}
        grid = page.picture(making.result)
        history = [(grid, text), *history][:MOST_IN_GALLERY]
        yield {
            live: making.html("Done"),
            download: page.download("flowers.png", page.png(grid), "Download the picture"),
            gallery: gr.Gallery([grid for grid, _ in history], visible=True),
            state: history,
        }

    choices = [model, class_name, number, steps, sampler, guidance, seed]
    run = start.click(
        generate,
        [state, *choices],
        [live, command, download, gallery, state],
        show_progress="hidden",
        **page.COMPUTES,
    )
    stop.click(None, cancels=run, queue=False)

    def choose(history: list[Any], chosen: gr.SelectData) -> str:
        return history[chosen.index][1]

    gallery.select(choose, state, command, queue=False)
