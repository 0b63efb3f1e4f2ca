"""Any contents of a file of others: they are read, or refused in one line."""

import copy
import json

import numpy as np
import pytest

from ddim_keras.config import InputError, ModelConfig, TrainingConfig
from ddim_keras.data.sources import find_source
from ddim_keras.evaluation.table import read_rows, write_rows
from ddim_keras.foreign import read_json, read_table
from ddim_keras.runs.configuration import RunConfig, read_config
from ddim_keras.runs.folder import Run
from ddim_keras.runs.manifest import read_manifest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as arrays  # noqa: E402

few = settings(max_examples=30, deadline=None, derandomize=True)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
READERS = {
    "config.json": read_config,
    "manifest.json": read_manifest,
    "sampling_steps.json": lambda folder: Run(folder).read_sampling_steps(),
    "history.csv": lambda folder: Run(folder).read_history(),
    "evaluation.csv": lambda folder: read_rows(folder / "evaluation.csv"),
}


def read_or_refused(reader, path):
    try:
        reader(path)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 1000  # noqa: PT017


@pytest.mark.parametrize("name", READERS)
@given(contents=st.binary() | anything.map(lambda values: json.dumps(values).encode()))
@few
def test_any_bytes(tmp_path_factory, name, contents):
    folder = tmp_path_factory.mktemp("any")
    (folder / name).write_bytes(contents)
    read_or_refused(READERS[name], folder)


CONFIG = json.loads(
    json.dumps(RunConfig(preset="lab", model=ModelConfig(), training=TrainingConfig()).to_dict())
)
NETWORK, MODEL = CONFIG["model"]["network"], CONFIG["model"]
PARTS = {(): CONFIG, ("model",): MODEL, ("model", "network"): NETWORK}
PARTS["training",] = CONFIG["training"]
PLACES = [(*path, name) for path, values in PARTS.items() for name in values]


@given(place=st.sampled_from(PLACES), value=anything)
@settings(few, max_examples=100)
def test_any_value_of_a_configuration(tmp_path_factory, place, value):
    folder = tmp_path_factory.mktemp("any")
    values = copy.deepcopy(CONFIG)
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / "config.json").write_text(json.dumps(values))
    read_or_refused(read_config, folder)


finite = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
written = st.recursive(finite | st.text(), st.lists, max_leaves=8)


@given(value=written)
@few
def test_json_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("any") / "a.json"
    path.write_text(json.dumps(value))
    assert read_json(path) == value


@given(rows=st.lists(st.tuples(st.floats(allow_nan=False), st.integers()), min_size=1))
@few
def test_tables_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "a.csv"
    write_rows(path, [{"kid": kid, "steps": steps} for kid, steps in rows])
    assert [(row["kid"], row["steps"]) for row in read_table(path)] == rows


@given(
    images=arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, max_dims=5)),
    labels=arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, max_dims=2)),
    names=arrays.arrays(arrays.unicode_string_dtypes(), arrays.array_shapes(min_dims=0)),
    has_images=st.booleans(),
)
@few
def test_any_arrays(tmp_path_factory, images, labels, names, has_images):
    path = tmp_path_factory.mktemp("any") / "a.npz"
    if has_images:
        images = np.zeros((len(labels) if labels.ndim else 1, 8, 8), "uint8")
    np.savez(path, images=images, labels=labels, class_names=names)
    read_or_refused(lambda path: list(find_source(path, 16, None).read().samples), path)
