"""The tab Inside: the steps of one image, the effect of guidance, and KID by steps."""

import html
import re
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np

from ddim_keras.config import SAMPLERS, InputError
from ddim_keras.demo import page
from ddim_keras.demo.models import Models
from ddim_keras.evaluation.table import COLUMNS, read_rows
from ddim_keras.runs.folder import find_run
from ddim_keras.runs.manifest import sha256

MOST_STEPS, STEPS, SAMPLER = 50, 20, "ddim"
STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)
IMAGES_OF_EACH, STEPS_OF_EACH = 6, 10
# What rows of evaluation.csv must have in common to stand in one table.
CONDITIONS = ("split", "num_images", "seed", "dtype_policy", "features", "estimator")


def measured(name: str) -> str:
    """Markdown: the KID of a model by steps, as it was measured last."""
    run = find_run(name)
    folder, digest = run.folder, sha256(run.weights_to_show())
    rows = [
        row
        for row in read_rows(folder / "evaluation.csv")
        if row.get("weights_sha256", digest) == digest  # not of weights before more training
    ]
    if rows:
        rows = [row for row in rows if all(row.get(x) == rows[-1].get(x) for x in CONDITIONS)]
        columns = [column for column in COLUMNS if all(column in row for row in rows)]
        lines = [[COLUMNS[column][0] for column in columns], ["---"] * len(columns)]
        lines += [[COLUMNS[column][1].format(row[column]) for column in columns] for row in rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        names = ("num_images", "split", "features")
        how = [f"{name.replace('_', ' ')}: {rows[-1][name]}" for name in names if name in rows[-1]]
        return "\n\n".join(filter(None, [", ".join(how), table]))
    card = folder / "MODEL_CARD.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if quality := re.search(r"^\*\*Quality\.\*\*.*?(?=^\*\*)", text, re.MULTILINE | re.DOTALL):
        return quality[0]
    return (
        "Not measured yet. Measure it with:\n\n    python evaluate.py --run "
        f"{name} --samplers ddim ipndm --steps 5 10 20"
    )


def inside_tab(models: Models) -> None:
    """Builds the tab."""
    frames = gr.State([], time_to_live=3600)  # HTML of each step
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            model = page.model_choice(models)
            class_name = page.class_choice(models, model)
            steps = gr.Slider(2, MOST_STEPS, STEPS, step=1, label="Steps")
            sampler = gr.Dropdown(list(SAMPLERS), value=SAMPLER, label="Sampler")
            seed = page.seed_choice()
            start, stop = page.start_and_stop("Show steps")
            compare = gr.Button("Compare guidance")
        with gr.Column(scale=3):
            gr.Markdown("### Step by step")
            slider = gr.Slider(1, STEPS, 1, step=1, label="Step", visible=False)
            live = gr.HTML(page.empty("One image, which you can follow with a slider."))
            gr.Markdown("### What guidance does")
            rows = gr.HTML(
                page.empty("Images of the same noises and classes, with more and more guidance.")
            )
            gr.Markdown("### KID by steps")
            table = gr.Markdown()

    @page.in_a_sentence
    def follow(
        name: str, class_name: str, steps: int, sampler: str, seed: int
    ) -> Iterator[dict[Any, Any]]:
        line = page.words_of(
            name, class_=class_name, num_images=1, steps=steps, sampler=sampler, seed=seed
        )
        job = models.job(line)
        making = page.Making(job, job.images, steps)
        for text in making:
            yield {live: text, slider: gr.Slider(visible=False)}
        levels = zip(making.frames, job.signal_rates, strict=False)
        of_steps = [
            page.figures(
                f"Step {frame.step + 1} of {steps}: signal rate {rate:.3f}, noise rate "
                f"{np.sqrt(1 - rate**2):.3f}",
                noisy_image=page.picture(frame.noisy_images),
                predicted_image=page.picture(frame.pred_images),
            )
            for frame, rate in levels
        ]
        yield {
            live: of_steps[0],
            slider: gr.Slider(1, len(of_steps), 1, step=1, visible=True),
            frames: of_steps,
        }

    @page.in_a_sentence
    def compare_guidance(name: str, class_name: str, seed: int) -> Iterator[str]:
        if not models.config(name).model.network.num_classes:
            raise InputError("guidance needs a model with classes")
        done = page.note("Each row has the same noises and classes; its number is the guidance.")
        for strength in STRENGTHS:
            line = page.words_of(
                name,
                class_=class_name,
                num_images=IMAGES_OF_EACH,
                steps=STEPS_OF_EACH,
                sampler="ipndm",
                guidance=strength,
                seed=seed,
            )
            job = models.job(line)
            making = page.Making(job, job.images, STEPS_OF_EACH)
            for _ in making:
                yield done + page.empty(f"guidance {strength:g} ...")
            source = page.source_of(page.picture(making.result, IMAGES_OF_EACH))
            done += (
                f'<div class="strength"><span>{strength:g}</span><img src="{source}" '
                f'alt="{html.escape(class_name)}, guidance {strength:g}"></div>'
            )
            yield done

    start_events = {"show_progress": "hidden", **page.COMPUTES}
    run = start.click(
        follow, [model, class_name, steps, sampler, seed], [live, slider, frames], **start_events
    )
    other = compare.click(compare_guidance, [model, class_name, seed], rows, **start_events)
    stop.click(None, cancels=[run, other], queue=False)
    slider.input(
        lambda frames, step: frames[int(step) - 1],
        [frames, slider],
        live,
        queue=False,
        show_progress="hidden",
    )
    gr.on(None, page.in_a_sentence(measured), model, table, queue=False)
