"""Mends what a `kill -9` of DVC itself, or a full disk, can leave: files written in place.

DVC writes two kinds so; a kill in the middle leaves half a file, at which every later `dvc` stops.
And its list of running commands names process ids: where one has been given to another program
since, DVC believes that the dead command still runs. Python, on a full disk, leaves half a compiled
module, at which every later import stops.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from stages.core.files import remove
from stages.core.forked import is_dvc

PYC_HEADER = 16
"""Bytes before the code in a compiled module."""


def heal(root: Path, say: Callable[[str], object]) -> None:
    """Drop half-written lock files and compiled modules, and locks of dead commands.

    Results stay in DVC's cache.

    Args:
        say: told what was mended.
    """
    running = root / ".dvc/tmp/rwlock"
    if running.is_file() and not _alive(running):
        remove(running)
    locks = [root / "dvc.lock", *sorted((root / "pipelines").rglob("dvc.lock"))]
    if any(lock.is_file() and not _whole(lock) for lock in locks):
        _drop_half(root, locks, say)
    for folder in ("stages", "pipelines"):
        for compiled in (root / folder).rglob("*.pyc"):
            if not _loads(compiled):
                remove(compiled)


def _drop_half(root: Path, locks: list[Path], say: Callable[[str], object]) -> None:
    """Delete those that are half-written, but not while a DVC holds its lock and writes them."""
    from dvc.lock import LockError, make_lock

    folder = root / ".dvc/tmp"
    with contextlib.suppress(LockError), make_lock(str(folder / "lock"), str(folder)):
        for lock in locks:
            if lock.is_file() and not _whole(lock):
                remove(lock)
                say(
                    f"{lock.relative_to(root)} was half-written when DVC was killed and is deleted;"
                    " finished results come back from DVC's cache"
                )


def _alive(path: Path) -> bool:
    """Whether a DVC that the list names still runs."""
    for wait in (0.1, 0.4, None):
        try:
            return any(_is_dvc(pid) for pid in _pids(json.loads(path.read_text())))
        except FileNotFoundError:
            return False
        except ValueError:
            if wait:  # a DVC that lives may be writing it just now
                time.sleep(wait)
    return False


def _pids(value: Any) -> list[int]:
    if isinstance(value, dict):
        own = [int(value["pid"])] if "pid" in value else []
        return own + [pid for child in value.values() for pid in _pids(child)]
    return [pid for child in value for pid in _pids(child)] if isinstance(value, list) else []


def _is_dvc(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and is_dvc(process.cmdline())
    except psutil.Error:
        return False


def _loads(compiled: Path) -> bool:
    try:
        marshal.loads(compiled.read_bytes()[PYC_HEADER:])
    except (EOFError, ValueError, TypeError):
        return False
    except OSError:  # another process has replaced it, or it is another user's
        pass
    return True


def _whole(path: Path) -> bool:
    """Whether DVC would take it: half a file can be YAML and still lack what DVC requires."""
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import load_yaml
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(load_yaml(str(path)))
    except (DvcException, Invalid, UnicodeDecodeError):
        return False
    return True
