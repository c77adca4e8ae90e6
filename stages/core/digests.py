"""Digests that lead from a number back to code, data, parameters and environment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.files import listing

LENGTH = 16
"""Hex digits kept: 64 bits, ample for telling runs apart and short enough to print."""


def of_value(value: Any) -> str:
    """Digest of a JSON-like value, independent of key order."""
    return _short(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def of_paths(root: Path, paths: Iterable[str]) -> str:
    """Digest of the names and contents of files and of all files in folders.

    Raises:
        UserError: a path does not exist.
    """
    total = hashlib.sha256()
    for path in sorted(paths):
        full = root / path
        if not full.exists():
            raise UserError(f"missing input: {path}; `dvc repro` makes it, `dvc pull` fetches it")
        for file in [full] if full.is_file() else listing(full):
            total.update(file.relative_to(root).as_posix().encode() + b"\0")
            with file.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()[:LENGTH]


def of_file(path: Path) -> str:
    """Full SHA-256 of a file, in hex."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:LENGTH]
