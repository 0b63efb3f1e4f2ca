"""Writes the notebooks with gaps from the solved ones.

    python notebooks/gaps.py             after a change of a solved notebook
    python notebooks/gaps.py --execute   runs the solved notebooks first, for new outputs

Lines between `### BEGIN SOLUTION` and `### END SOLUTION` become a gap, as in nbgrader, and so does
a text cell with the tag "solution". Only the solved notebooks keep their outputs.
"""

import argparse
import base64
import copy
import io
import re
from pathlib import Path

import nbformat
from PIL import Image

FOLDER = Path(__file__).parent
NAMES = ("lab13", "ddpm")
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION$", re.DOTALL | re.MULTILINE)
GAP = r'\1# Your code goes here.\n\1raise NotImplementedError("fill this gap")'


def with_gaps(solved: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without its solutions and outputs."""
    notebook = copy.deepcopy(solved)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = SOLUTION.sub(GAP, cell.source)
            cell.outputs, cell.execution_count = [], None
        elif "solution" in cell.metadata.get("tags", []):
            cell.source = "*Your text goes here.*"
    return notebook


def execute(notebook: nbformat.NotebookNode) -> None:
    """Runs all cells in the folder of the notebooks, and keeps their outputs in the notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: with the traceback of the first cell that fails.
    """
    from nbclient import NotebookClient

    NotebookClient(
        notebook,
        timeout=None,
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # The standard error has what TensorFlow says of the machine.
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = with_few_colours(output.data["image/png"])


def with_few_colours(png: str) -> str:
    """A picture as a notebook holds it, in base64, with a palette: half as large."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    smaller = io.BytesIO()
    picture.quantize(256).save(smaller, "png", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--execute", action="store_true", help="run the solved notebooks first")
    parser.add_argument("names", nargs="*", default=NAMES, help="notebooks (default: all)")
    arguments = parser.parse_args()
    for name in arguments.names:
        solved_file = FOLDER / f"{name}_solved.ipynb"
        solved = nbformat.read(solved_file, as_version=4)
        if arguments.execute:
            execute(solved)
            nbformat.write(solved, solved_file)
        nbformat.write(with_gaps(solved), FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
    main()
