"""Files that are either whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes the place of `path`.

    A kill at any moment leaves the old file or the new one, never half of either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, so that the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def move_into_place(source: Path, target: Path) -> None:
    """Rename `source` (file or folder) to `target`, replacing what is there.

    A folder cannot be renamed onto a full one, so the old one steps aside first. A kill between
    the two renames leaves no `target`, which DVC takes for a missing output and remakes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.old")
    remove(aside)
    if os.path.lexists(target):
        os.rename(target, aside)
    os.rename(source, target)
    remove(aside)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def listing(folder: Path) -> list[Path]:
    """All files below `folder`, sorted by their relative path.

    Compiled Python is left out, and what a kill can leave of `replacing` and `move_into_place`.
    """
    return sorted(p for p in folder.rglob("*") if p.is_file() and not _passing(p, folder))


def _passing(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return any(
        part == "__pycache__" or (part.startswith(".") and part.endswith((".old", ".tmp")))
        for part in parts
    )
