"""Manifest of a run: hashes that identify its configuration and weights.

`manifest.json` lists the SHA-256 hashes that each file may have. While a file is being replaced,
these are the old and the new hash, so a kill at any moment leaves a readable folder. A folder
without a manifest, from an earlier version, is read without this check.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ddim_keras.atomic import written_whole
from ddim_keras.config import InputError
from ddim_keras.foreign import contents_of, read_json

NAME = "manifest.json"


def sha256(path: Path) -> str:
    """The SHA-256 hash of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def recorded(path: Path) -> Iterator[Path]:
    """Like `atomic.written_whole`, and records the hash of the file in the manifest beside it."""
    hashes = read_manifest(path.parent)

    def announce(part: Path) -> None:
        hashes[path.name] = [*hashes.get(path.name, [])[-1:], sha256(part)]
        _write(path.parent, hashes)

    with written_whole(path, before_renaming=announce) as part:
        yield part
    hashes[path.name] = hashes[path.name][-1:]
    _write(path.parent, hashes)


def verify(path: Path) -> None:
    """Raises InputError if the hash of a file is not in the manifest beside it."""
    allowed = read_manifest(path.parent).get(path.name)
    if allowed and sha256(path) not in allowed:
        raise InputError(
            f"{path} was changed or damaged after it was written: its hash is not the one in "
            f"{NAME}. Restore the file, or read it anyway with --no-verify"
        )


def read_manifest(folder: Path) -> dict[str, list[str]]:
    """The hashes of each file of a run; empty if there is no manifest."""
    path = folder / NAME
    if not path.exists():
        return {}
    with contents_of(path, "a manifest", "; remove it to continue"):
        hashes = read_json(path)
        if not all(isinstance(text, str) for texts in hashes.values() for text in texts):
            raise ValueError("a hash is not a text")
        return hashes


def _write(folder: Path, hashes: dict[str, list[str]]) -> None:
    with written_whole(folder / NAME) as part:
        part.write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
