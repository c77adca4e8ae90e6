"""Locks that the kernel frees when their process dies, so that no stale one is ever left."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock on `path`."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def wait_free(path: Path, patience: float) -> bool:
    """Wait until nobody holds the lock on `path`; False after `patience` seconds."""
    deadline = time.monotonic() + patience
    while is_held(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def held(path: Path, patience: float = 0.0) -> Iterator[bool]:
    """Hold the lock on `path`, with this process's id written in it; False: someone else does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with path.open("a+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    yield False
                    return
                time.sleep(0.05)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield True


def open_locked(path: Path, patience: float) -> int:
    """Open a file for appending and hold its lock as long as the descriptor is open.

    Raises:
        BlockingIOError: someone else held it for `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it before us may have deleted the file.
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(file)
                raise
            time.sleep(0.01)
        os.close(file)
