"""One stage, run once by DVC's own command, watched, and ended with all its processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.core import child
from stages.core.forked import Dvc

if TYPE_CHECKING:
    import psutil

BUSY = ("Unable to acquire lock", "is busy, it is being blocked by")
"""What DVC says where another DVC works on the same files; it passes."""
BUSY_TOLD = "another DVC works on the same files"
BUSY_SECONDS = 2.0
"""Until a busy one is asked again."""
GRACE_SECONDS = 30.0
"""For a stage to leave its checkpoint once it was told to end; then it is killed."""
SHOWN = 20
"""Lines of output kept for the message of a failure that the stage itself did not explain."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        state: "cached" where DVC found the result in its cache or nothing changed.
        message: of a failure, as the stage told it.
        passing: whether trying again may help: the stage was killed, a lock or a connection was
            not to be had. Never so for a user's mistake, and not for a stage's own fault.
    """

    state: Literal["ran", "cached", "failed"]
    seconds: float
    message: str = ""
    passing: bool = False


def attempt(
    root: Path,
    address: str,
    env: Mapping[str, str],
    *,
    seconds: float,
    cancel: threading.Event,
    said: Callable[[str], object] = lambda line: None,
    words: Sequence[str] = (),
) -> Outcome:
    """Run one stage through DVC, and nothing that it stands on.

    Another DVC at work on the same files, such as one whose caller was killed, is waited for.

    Args:
        env: the whole environment of DVC.
        seconds: after which the attempt is ended and counts as failed.
        cancel: ends the attempt when set.
        said: told each line of output.
        words: further ones for `dvc repro`, such as --pull.
    """
    begun = time.monotonic()
    while True:
        done = _once(root, address, env, begun, seconds, cancel, said, words)
        late = time.monotonic() + BUSY_SECONDS > begun + seconds
        if done.message != BUSY_TOLD or late or cancel.is_set():
            return done
        said(f"{BUSY_TOLD}; waiting for it to end")
        cancel.wait(BUSY_SECONDS)


def _once(
    root: Path,
    address: str,
    env: Mapping[str, str],
    begun: float,
    seconds: float,
    cancel: threading.Event,
    said: Callable[[str], object],
    words: Sequence[str],
) -> Outcome:
    until = begun + seconds
    with tempfile.TemporaryDirectory() as folder:
        book, stop = Path(folder) / "failures.jsonl", Path(folder) / "stop"
        path = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
        process = Dvc(
            ["repro", "--single-item", *words, address],
            root,
            # DVC's commands say `python`: that must be the one that runs this.
            {**env, "PATH": path, "RETORT_FAILURES": str(book), child.STOP: str(stop)},
        )
        why: list[str] = []
        ended = threading.Event()
        watch = threading.Thread(
            target=_watch, args=(process.pid, stop, until, cancel, ended, why), daemon=True
        )
        watch.start()
        lines = []
        for line in process.lines():
            lines.append(line.rstrip())
            said(lines[-1])
        code = process.wait()  # after all that it started has closed the pipe
        ended.set()
        watch.join()
        spent = time.monotonic() - begun
        if why:
            told = f"took longer than {seconds:.0f} s" if why == ["time"] else "stopped"
            return Outcome("failed", spent, told)
        if code == 0:
            ran = any(line.startswith("Running stage") for line in lines)
            return Outcome("ran" if ran else "cached", spent)
        return _failure(book, lines, spent, code)


def _watch(
    leader: int,
    stop: Path,
    until: float,
    cancel: threading.Event,
    ended: threading.Event,
    why: list[str],
) -> None:
    """End the attempt when it is cancelled or its time is over; `why` is told which."""
    while not ended.wait(0.1):
        if cancel.is_set() or time.monotonic() > until:
            why.append("cancel" if cancel.is_set() else "time")
            stop.touch()
            _end(leader, ended)
            return


def _end(leader: int, ended: threading.Event) -> None:
    """Tell all processes to end, as Ctrl-C does; kill what is left after the time of grace.

    DVC, deaf while its stage runs, is told again and again, each other one once.
    """
    import psutil

    until = time.monotonic() + GRACE_SECONDS
    told: set[int] = set()
    while not ended.is_set():
        last = time.monotonic() > until
        for each in _family(leader):
            with contextlib.suppress(psutil.NoSuchProcess):
                if last:
                    each.kill()
                elif each.pid == leader or each.pid not in told:
                    told.add(each.pid)
                    each.send_signal(signal.SIGINT)
        ended.wait(0.5)


def _family(leader: int) -> set[psutil.Process]:
    """The processes of a group, and all below them; its leader may have gone."""
    import psutil

    found = set()
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(each.pid) == leader:
                found |= {each, *each.children(recursive=True)}
    return found


def _failure(book: Path, lines: list[str], spent: float, code: int) -> Outcome:
    text = "\n".join(lines)
    if book.is_file():
        told = json.loads(book.read_text().splitlines()[-1])
        return Outcome("failed", spent, told["message"], passing=told["passing"])
    if any(sign in text for sign in BUSY):
        return Outcome("failed", spent, BUSY_TOLD, passing=True)
    # A stage that fails says why in the book; one that was killed cannot.
    if code < 0 or re.search(r"exited with (-9|137)\b", text):
        return Outcome("failed", spent, "its process was killed", passing=True)
    return Outcome("failed", spent, "\n".join(lines[-SHOWN:]) or "DVC said nothing")
