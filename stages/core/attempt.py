"""One stage, run once by DVC's own command, watched, and ended with all its processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stages.core import child

BUSY = ("Unable to acquire lock", "is busy, it is being blocked by")
"""What DVC says where another DVC works on the same files; it passes."""
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

    Args:
        env: the whole environment of DVC.
        seconds: after which the attempt is ended and counts as failed.
        cancel: ends the attempt when set.
        said: told each line of output.
        words: further ones for `dvc repro`, such as --pull.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        book, stop = Path(folder) / "failures.jsonl", Path(folder) / "stop"
        path = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", "--single-item", *words, address],
            cwd=root,
            # DVC's commands say `python`: that must be the one that runs this.
            env={**env, "PATH": path, "RETORT_FAILURES": str(book), child.STOP: str(stop)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        why: list[str] = []
        watch = threading.Thread(
            target=_watch, args=(process, stop, begun + seconds, cancel, why), daemon=True
        )
        watch.start()
        lines = []
        assert process.stdout
        for line in process.stdout:
            lines.append(line.rstrip())
            said(lines[-1])
        code = process.wait()
        watch.join()
        spent = time.monotonic() - begun
        if why:
            told = f"took longer than {seconds:.0f} s" if why == ["time"] else "stopped"
            return Outcome("failed", spent, told)
        if code == 0:
            ran = any(line.startswith("Running stage") for line in lines)
            return Outcome("ran" if ran else "cached", spent)
        return _failure(book, lines, spent)


def _watch(
    process: subprocess.Popen[str],
    stop: Path,
    until: float,
    cancel: threading.Event,
    why: list[str],
) -> None:
    """End the attempt when it is cancelled or its time is over; `why` is told which."""
    while process.poll() is None:
        if cancel.wait(0.1) or time.monotonic() > until:
            why.append("cancel" if cancel.is_set() else "time")
            stop.touch()
            _end(process)
            return


def _end(process: subprocess.Popen[str]) -> None:
    """Tell all processes to end, as Ctrl-C does; kill what is left after the time of grace."""
    import psutil

    until = time.monotonic() + GRACE_SECONDS
    told: set[int] = set()
    family: list[psutil.Process] = []
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [*psutil.Process(process.pid).children(recursive=True)]
        last = time.monotonic() > until
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                if last:
                    each.kill()
                elif each.pid not in told:
                    told.add(each.pid)
                    each.send_signal(signal.SIGINT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if last else process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)


def _failure(book: Path, lines: list[str], spent: float) -> Outcome:
    text = "\n".join(lines)
    if book.is_file():
        told = json.loads(book.read_text().splitlines()[-1])
        return Outcome("failed", spent, told["message"], passing=told["passing"])
    if any(sign in text for sign in BUSY):
        return Outcome("failed", spent, "another DVC works on the same files", passing=True)
    # A stage that fails says why in the book; one that was killed cannot.
    if re.search(r"exited with (-9|137)\b", text):
        return Outcome("failed", spent, "its process was killed", passing=True)
    return Outcome("failed", spent, "\n".join(lines[-SHOWN:]) or "DVC said nothing")
