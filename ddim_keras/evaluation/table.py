"""Table of results: printed, and saved with earlier results in evaluation.csv."""

import csv
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddim_keras.atomic import written_whole
from ddim_keras.foreign import contents_of, read_table
from ddim_keras.plots import figures

AXES = {
    "kid": "KID",
    "frechet": "Frechet distance",
    "precision": "precision",
    "recall": "recall",
}
# The columns that people see: title, and how a value is written.
COLUMNS = {
    "setting": ("setting", "{}"),
    "steps": ("steps", "{}"),
    "network_calls": ("calls", "{}"),
    "last_signal_rate": ("last rate", "{:.4f}"),
    "batch_size": ("batch", "{}"),
    "images_per_second": ("images/s", "{:.3g}"),
    "kid": ("KID", "{:.4f}"),
    "kid_standard_error": ("", "± {:.4f}"),
    "frechet": ("Frechet", "{:.2f}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
}
# What tells two rows under the same conditions apart; earlier rows may lack some of it.
KEY = ("setting", "steps", "guide_sha256", "batch_size")
DRAWN = ("setting", "sampler", "steps", "network_calls")  # what the figure and the text need
Row = dict[str, Any]


class Results:
    """Measured rows, and those of earlier calls.

    Rows of other weights files stay in evaluation.csv, unless a training has replaced the file.

    Args:
        folder: where evaluation.csv and evaluation.png are.
        conditions: what rows must have in common to be compared, with the hash of the weights; and
            `weights`, their path, which may differ.
        floor: the metrics of real images.
        features: description of the encoder, for the axes.
    """

    def __init__(
        self, folder: Path, conditions: Mapping[str, Any], floor: Mapping[str, float], features: str
    ) -> None:
        self.folder = folder
        self.conditions = dict(conditions)
        self.floor = dict(floor)
        self.axes = {name: f"{AXES[name]}, {features}" for name in floor if name in AXES}
        self.rows: list[Row] = []
        self.earlier = [
            row
            for row in read_rows(folder / "evaluation.csv")
            if row.get("weights_sha256") == conditions["weights_sha256"]
            or row.get("weights", conditions["weights"]) != conditions["weights"]
        ]

    def add(self, row: Row) -> None:
        """Adds a row, in place of an earlier one of the same setting, and writes both files."""
        row = row | self.conditions
        key = (*KEY, *self.common)
        self.earlier = [
            earlier
            for earlier in self.earlier
            if any(earlier.get(name) != row.get(name) for name in key)
        ]
        self.rows.append(row)
        write_rows(self.folder / "evaluation.csv", [*self.earlier, *self.rows])
        figure = figures.by_network_calls(self.comparable, self.axes, self.floor)
        figures.save_figure(figure, self.folder / "evaluation.png")

    @property
    def common(self) -> Row:
        """The conditions without the path: a run may have been moved."""
        return {name: value for name, value in self.conditions.items() if name != "weights"}

    @property
    def comparable(self) -> list[Row]:
        """The rows under the same conditions, with all metrics, of this call and earlier ones."""
        earlier = [
            row
            for row in self.earlier
            if row.items() >= self.common.items() and row.keys() >= {*DRAWN, *self.axes}
        ]
        return [*earlier, *self.rows]

    def text(self) -> str:
        """The comparable rows as text, with the values of real images in the last row."""
        columns = [name for name in COLUMNS if name in self.rows[-1]]
        lines = [[COLUMNS[name][0] for name in columns]]
        for row in [*self.comparable, {"setting": "training against validation", **self.floor}]:
            lines.append(
                [COLUMNS[name][1].format(row[name]) if name in row else "" for name in columns]
            )
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes a CSV file with the columns of all rows; names that are no UTF-8 as `printable`."""
    with (
        written_whole(path) as part,
        part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, list(dict.fromkeys(itertools.chain(*rows))))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file of results; none if there is no file."""
    if not path.exists():
        return []
    with contents_of(path, "a table of results", "; move it aside, or choose another --output"):
        rows = read_table(path)
        if any(";" in name for row in rows for name in row):  # a spreadsheet of some languages
            raise ValueError("its columns are separated by semicolons instead of commas")
        for name in (*AXES, *COLUMNS):
            if name != "setting" and any(isinstance(row.get(name), str) for row in rows):
                raise ValueError(f"{name} is no number")
        return rows
