"""What `dvc.lock` and DVC's cache hold of an output, and how an output on disk compares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.core.files import listing, read_json
from stages.core.params import read_yaml


def overlap(dep: str, out: str) -> bool:
    """Whether one path is the other or lies below it."""
    return dep == out or dep.startswith(out + "/") or out.startswith(dep + "/")


def entries(root: Path, paper: str) -> dict[str, dict[str, Any]]:
    """The stages of a paper's dvc.lock by name; empty where there is none."""
    lock = root / "pipelines" / paper / "dvc.lock"
    return dict(read_yaml(lock)["stages"]) if lock.is_file() else {}


def cache_folder(root: Path) -> Path:
    """Where DVC keeps what it has, by hash."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return Path(repo.cache.local.path)


def stored(cache: Path, md5: str) -> Path:
    """The cache's file of that hash, which need not be there."""
    return cache / md5[:2] / md5[2:]


def files(cache: Path, md5: str) -> dict[str, str] | None:
    """Relative path -> hash of an output's files; "" stands for an output that is one file.

    Returns:
        None where the cache lacks the list of a folder's files.
    """
    if not md5.endswith(".dir"):
        return {"": md5}
    path = stored(cache, md5)
    if not path.is_file():
        return None
    return {entry["relpath"]: entry["md5"] for entry in read_json(path)}


def files_now(path: Path) -> dict[str, str]:
    """The same of what lies at `path`; empty where nothing does."""
    if path.is_file():
        return {"": _md5(path)}
    return {file.relative_to(path).as_posix(): _md5(file) for file in listing(path)}


def hash_of(found: Mapping[str, str]) -> str:
    """DVC's hash of an output with these files."""
    if list(found) == [""]:
        return found[""]
    # DVC's own form: a folder's hash is that of the sorted list of its files.
    listed = [{"md5": found[name], "relpath": name} for name in sorted(found)]
    text = json.dumps(listed, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
