"""Child processes that end with us: DVC, and the stages that it starts."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run(command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> int:
    """Run a command to its end and give its exit code.

    When we are interrupted or terminated, every process below it is told to end as by Ctrl-C, and
    waited for: stages leave their checkpoints, and DVC its lock files in order. (subprocess.run
    would kill DVC after a quarter of a second and orphan the stage.)
    """
    child = subprocess.Popen(command, cwd=cwd, env=env)
    try:
        return child.wait()
    except KeyboardInterrupt:
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(child.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGINT)
        child.wait()
        raise
