"""`python -m stages join`: this clone as a worker of a Dask cluster, until Ctrl-C."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
from rich.console import Console

from stages.core import child
from stages.core.errors import UserError
from stages.core.forked import is_dvc

PR_SET_CHILD_SUBREAPER = 36
AGAIN_SECONDS = 3.0
"""Until the scheduler is asked again where it went away."""


def join(root: Path, address: str, host: str | None) -> int:
    """Serve stages one at a time; start anew when the scheduler went away and came back.

    Args:
        host: of this machine, as the scheduler and other workers reach it; Dask's guess if None.

    Raises:
        UserError: Dask is not installed, or another worker stands in this clone.
    """
    if find_spec("distributed") is None:
        raise UserError("join needs Dask: `pip install -c constraints.txt -e '.[dist]'`")
    console = Console(highlight=False, soft_wrap=True)
    (root / "work").mkdir(exist_ok=True)
    with (root / "work/.join.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "another worker stands in this clone; each needs a clone of its own"
            ) from None
        # No nanny: this loop is one. One thread: DVC runs one stage at a time in a clone.
        words = [
            sys.executable, "-m", "distributed.cli.dask_worker", address,
            "--no-nanny", "--nthreads", "1", "--no-dashboard", "--death-timeout", "15",
            "--local-directory", str(root / "work/.dask"), "--memory-limit", "0",
            *(["--host", host] if host else []),
        ]  # fmt: skip
        if left := _left_behind(root):
            raise UserError(
                f"an earlier worker's stage still runs in this clone (process {left[0]}); end it "
                "or wait"
            )
        _adopt_orphans()
        while True:
            console.print(f"worker of {address} in {root.name}")
            child.run(words, root)
            _end_orphans()
            console.print(f"the worker ended; another one starts in {AGAIN_SECONDS:.0f} s")
            time.sleep(AGAIN_SECONDS)


def _adopt_orphans() -> None:
    """Have the stage of a worker that was killed become our child (Linux), to be ended by us."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _left_behind(root: Path) -> list[int]:
    """Processes of a worker, or of DVC, that outlived the `join` that kept them."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        works = "distributed.cli.dask_worker" in words or is_dvc(words)
        if works and process.info["cwd"] == str(root):
            found.append(int(process.info["pid"]))
    return found


def _end_orphans() -> None:
    """Its result would come too late: Dask has given the stage to another worker."""
    while orphans := psutil.Process().children(recursive=True):
        for orphan in orphans:
            with contextlib.suppress(psutil.Error):
                orphan.kill()
        psutil.wait_procs(orphans, timeout=1)
