"""Child processes that end with us: DVC, and the stages that it starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP = "RETORT_STOP"
"""Environment variable: a file that is there once a run was interrupted."""
TAKE_HOME = "RETORT_TAKE_HOME"
"""Environment variable: DVC is to find a stage's result, and the stage is not to run."""


def run(command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> int:
    """Run a command to its end and give its exit code.

    When we are interrupted or terminated, every process below it is told to end as by Ctrl-C, and
    waited for: stages leave their checkpoints, and DVC its lock files in order. (subprocess.run
    would kill DVC after a quarter of a second and orphan the stage.)
    """
    with tempfile.TemporaryDirectory() as folder:
        stop = Path(folder) / "stop"
        own = {**(os.environ if env is None else env), STOP: str(stop)}
        child = subprocess.Popen(command, cwd=cwd, env=own)
        try:
            return child.wait()
        except BaseException:  # Ctrl-C, or Prefect's way to say that a run is cancelled
            stop.touch()
            _end(child)
            raise


def _end(child: subprocess.Popen[bytes]) -> None:
    """Interrupt a process and all below it until it has ended.

    DVC is deaf while a stage runs, and takes a stage that was interrupted for one that failed: with
    --keep-going it starts the next paper. So it is told again and again, and each stage once; the
    door of a stage that it starts in between looks at `STOP`.
    """
    import psutil

    told: set[int] = set()
    while child.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(child.pid).children(recursive=True):
                if process.pid not in told:
                    told.add(process.pid)
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.5)
