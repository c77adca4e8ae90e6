"""Is what a stage reads still what was made? Against disks that rot, and damaged copies.

DVC takes a file of its cache for whole while it is read-only, and what it has put in place for
unchanged while size and time are. So a damaged file would pass, and be read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.core import dag, recorded
from stages.core.errors import UserError
from stages.core.files import move_into_place, remove, replacing
from stages.core.recorded import files_now, hash_of, overlap, stored

ASIDE = "work/.damaged"
DIGITS = 32
"""Of an MD5 digest."""


def refuse_damaged(root: Path, node: dag.Node, values: dict[str, Any]) -> None:
    """See that a stage's inputs have the bytes that DVC believes them to have.

    Only where DVC runs the stage, and at the cost of reading every input once more. Where the cache
    has a whole copy, it is put in place; else the output is moved aside and what is damaged in the
    cache deleted, so that the next run makes or fetches it anew. What a user has changed or made by
    hand is none of our business: DVC has seen that it changed.

    Args:
        values: params.yaml.

    Raises:
        UserError: an input is damaged, or cannot be read.
    """
    if "DVC_STAGE" not in os.environ:
        return
    try:
        for out, md5 in _made(root, node, values):
            if (root / out).exists() and hash_of(files_now(root / out)) != md5:
                _examine(root, out)
    except OSError as error:
        raise UserError(f"an input cannot be read: {error}") from error


def _made(root: Path, node: dag.Node, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and hash, by `dvc.lock`, of earlier stages' outputs that a stage reads."""
    for paper in dag.papers(root):
        if not any(overlap(dep, f"work/{paper}") for dep in node.data):
            continue
        try:
            entries = recorded.entries(root, paper)
            for made in dag.nodes(root, paper, values):
                for out in entries.get(made.name, {}).get("outs", []):
                    whole = len(str(out["md5"]).removesuffix(".dir")) == DIGITS
                    if whole and any(overlap(dep, out["path"]) for dep in node.data):
                        yield out["path"], str(out["md5"])
        except (UserError, ValueError, TypeError, KeyError, AttributeError):
            # Another DVC writes this file at the moment, in place: half of it says nothing.
            continue


def _examine(root: Path, out: str) -> None:
    """Tell damage from change, for an output that is not what `dvc.lock` lists.

    Raises:
        UserError: it is damaged, and the cache has no whole copy.
    """
    from dvc.repo import Repo
    from dvc_objects.fs.local import localfs

    lost = []
    with Repo(str(root)) as repo:
        cache = Path(repo.cache.local.path)
        for name, digest in files_now(root / out).items():
            path = root / out / name
            _, believed = repo.state.get(str(Path(repo.root_dir) / out / name), localfs)
            if believed is None or believed.value == digest:
                continue
            copy = stored(cache, believed.value)
            if _whole(copy, believed.value):
                with replacing(path) as temporary:
                    shutil.copyfile(copy, temporary)
            else:
                lost.append(f"{out}/{name}".rstrip("/"))
                remove(copy)
    if lost:
        move_into_place(root / out, root / ASIDE / out)
        raise UserError(
            f"{', '.join(lost)}: not the bytes that were made; damaged on disk or in DVC's cache, "
            f"with size and time as before. It is moved to {ASIDE}: run the same command again, "
            "and what is damaged is made anew or fetched"
        )


def _whole(file: Path, md5: str) -> bool:
    return file.is_file() and files_now(file)[""] == md5
