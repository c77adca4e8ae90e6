"""Is what a stage reads still what was made? Against disks that rot, and damaged copies.

DVC takes a file of its cache for whole while it is read-only, and what it has put in place for
unchanged while size and time are. So a damaged file would pass, and be read.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from stages.core import dag, recorded
from stages.core.errors import UserError
from stages.core.files import remove
from stages.core.recorded import files_now, hash_of, overlap

WRITING_SECONDS = 2.0
"""Longer than DVC takes to write a dvc.lock, which it does in place."""


def refuse_damaged(root: Path, node: dag.Node) -> None:
    """Compare the bytes of a stage's inputs with `dvc.lock`; only where DVC runs the stage.

    What is damaged is deleted, here and in DVC's cache, so that the next run makes or fetches it
    anew. A stage that is run by hand reads what lies there, as one may have wished.

    Raises:
        UserError: an input is not what it was when it was made.
    """
    if "DVC_STAGE" not in os.environ:
        return
    if not _differing(root, node):
        return
    time.sleep(WRITING_SECONDS)  # what was read may have been half of a dvc.lock
    damaged = _differing(root, node)
    if damaged:
        names = ", ".join(sorted(n for out, md5 in damaged for n in _delete(root, out, md5)))
        raise UserError(
            f"{names}: not the bytes that were made and that dvc.lock lists; damaged on disk, in "
            "DVC's cache, or on the way from a remote. What is damaged is deleted: run the same "
            "command again, and it is made or fetched anew. Should it come back, the remote's copy "
            "is damaged: delete it there"
        )


def _differing(root: Path, node: dag.Node) -> list[tuple[str, str]]:
    """Outputs that a stage reads and whose bytes are not those of `dvc.lock`, with their hashes."""
    return [
        (out, md5)
        for out, md5 in _made(root, node)
        if (root / out).exists() and hash_of(files_now(root / out)) != md5
    ]


def _made(root: Path, node: dag.Node) -> list[tuple[str, str]]:
    """Path and hash, by `dvc.lock`, of earlier stages' outputs that a stage reads."""
    made = []
    for paper in dag.papers(root):
        if any(overlap(dep, f"work/{paper}") for dep in node.data):
            for entry in recorded.entries(root, paper).values():
                outs = ((o["path"], o["md5"]) for o in entry.get("outs", []) if "md5" in o)
                made += [o for o in outs if any(overlap(dep, o[0]) for dep in node.data)]
    return made


def _delete(root: Path, out: str, md5: str) -> list[str]:
    """Delete an output that differs, and whatever of it differs in the cache; its files' names."""
    cache = recorded.cache_folder(root)
    then = recorded.files(cache, md5) or {}
    now = files_now(root / out)
    for digest in {md5, *then.values()}:
        file = recorded.stored(cache, digest)
        if file.is_file() and files_now(file)[""] != digest.removesuffix(".dir"):
            remove(file)
    remove(root / out)
    return [
        f"{out}/{name}".rstrip("/") for name in {*then, *now} if then.get(name) != now.get(name)
    ]
