"""Resume folders: work that survives a kill, and the lock that keeps an orphan out."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.dag import Node
from stages.core.files import listing, read_json, remove, write_json


@contextmanager
def held(
    root: Path, node: Node, key: str, say: Callable[[str], None]
) -> Iterator[tuple[Path, float]]:
    """Hold the stage's lock; give its resume folder for `key`, and seconds spent on what it has.

    After a kill of `dvc` alone, the stage it started runs on as an orphan and still holds the
    lock: this waits until it has ended, then finds its finished work. The kernel frees the lock of
    a process that dies. Folders of other keys (older code, data or parameters) are deleted.
    """
    home = root / "work/.resume" / node.paper / node.name
    home.mkdir(parents=True, exist_ok=True)
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"an earlier run of {node.name} is still at work; waiting for it to end")
            start = time.monotonic()
            fcntl.flock(lock, fcntl.LOCK_EX)
            say(f"it has ended after {time.monotonic() - start:.0f} s")
        for old in home.iterdir():
            if old.is_dir() and old.name != key:
                remove(old)
        folder = home / key
        folder.mkdir(exist_ok=True)
        yield folder, _spent(home / "attempt.json", key, folder)
    finally:
        os.close(lock)


def _spent(book: Path, key: str, folder: Path) -> float:
    """Seconds of earlier attempts, each up to the last file that it left; begins the next one.

    Nothing needs to be written when an attempt ends, since it may be killed.
    """
    last: dict[str, Any] = {"key": "", "begun": 0.0, "earlier": 0.0}
    if book.is_file():
        last = read_json(book)
    earlier = 0.0
    if last["key"] == key and (left := listing(folder)):
        newest = max(file.stat().st_mtime for file in left)
        earlier = last["earlier"] + max(0.0, newest - last["begun"])
    write_json(book, {"key": key, "begun": time.time(), "earlier": earlier})
    return earlier
