import json
import os

import pytest

from ddim_keras.config import InputError
from ddim_keras.runs import manifest
from ddim_keras.runs.manifest import read_manifest, recorded, sha256, verify


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.json"
    with recorded(path) as part:
        part.write_text("first")
    return path


def test_a_file_is_known_by_its_hash(file):
    assert read_manifest(file.parent) == {"config.json": [sha256(file)]}
    verify(file)
    file.write_text("First")
    with pytest.raises(InputError, match=r"config\.json was changed or damaged .* --no-verify"):
        verify(file)


def test_folders_without_a_manifest_are_read(tmp_path):
    (tmp_path / "config.json").write_text("of an earlier version")
    verify(tmp_path / "config.json")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_while_a_file_is_replaced_leaves_a_readable_folder(file, moment, monkeypatch):
    replace = os.replace

    def killed(part, target):
        if target.name != "config.json":
            return replace(part, target)
        if moment == "after":
            replace(part, target)
        raise KeyboardInterrupt

    monkeypatch.setattr("ddim_keras.atomic.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt), recorded(file) as part:
        part.write_text("second")
    assert file.read_text() == {"before": "first", "after": "second"}[moment]
    verify(file)


@pytest.mark.parametrize("text", ["", "[]", '{"config.json": [1]}', "[" * 100_000, '{"a": 3}'])
def test_broken_manifests_are_named(file, text):
    (file.parent / manifest.NAME).write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json is not a manifest"):
        read_manifest(file.parent)


def test_hashes_of_other_files_are_kept(file):
    other = file.with_name("best.weights.h5")
    with recorded(other) as part:
        part.write_bytes(b"weights")
    hashes = json.loads((file.parent / manifest.NAME).read_text())
    assert hashes == {"config.json": [sha256(file)], "best.weights.h5": [sha256(other)]}
