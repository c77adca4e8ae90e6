"""The background process that passes the spool on to MLflow, and how the door steers it.

One sender serves a project: it is started by the first stage, looks at the spool every half
second, so that curves are live, and ends by itself. It may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from stages.core.files import read_json, write_json
from stages.core.tracking.locks import held, is_held, wait_free
from stages.core.tracking.spool import home

POLL = 0.5
IDLE = 20.0
"""Seconds without a living stage and without news after which the sender ends."""
BACKLOG = 1000
"""Lines in one pass above which the next pass follows at once."""
RETRY = (5.0, 30.0)
"""Seconds between looks at a server that is away, at first and at most."""

FORMAT = "%(asctime)s %(levelname)s %(message)s"
log = logging.getLogger("retort.tracking")
_paused: dict[Path, int] = {}
_started: list[Any] = []


def ensure_sender(root: Path) -> None:
    """Start the sender unless one runs or a bench has the machine. Cheap; never raises.

    Call it after `Tracker.open`: a sender that is about to end looks once more for new spools.
    """
    with contextlib.suppress(OSError):
        folder = home(root)
        folder.mkdir(parents=True, exist_ok=True)
        if is_held(folder / "lock") or is_held(folder / "pause"):
            return
        import subprocess

        logs = root / "work/.logs"
        logs.mkdir(parents=True, exist_ok=True)
        code = Path(__file__).resolve().parents[3]
        with (logs / "tracking.log").open("ab") as book:
            child = subprocess.Popen(
                [sys.executable, "-m", "stages.core.tracking.sender", str(root.resolve())],
                cwd=code,
                stdin=subprocess.DEVNULL,
                stdout=book,
                stderr=book,
                start_new_session=True,
            )
        # Kept, so that a long-lived caller takes leave of the senders that have ended.
        _started[:] = [c for c in _started if c.poll() is None] + [child]


def quiesce(root: Path, patience: float = 5.0) -> None:
    """Send the sender away and keep it away until `resume`, or until this process ends.

    Afterwards nothing of ours runs in the background, so that a bench has the machine alone. A
    sender that is still at work after `patience` seconds is ended; it loses nothing by it.
    """
    folder = home(root)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if root not in _paused:
            _paused[root] = os.open(folder / "pause", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            # Whoever holds it already keeps the sender away as well.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(_paused[root], fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not wait_free(folder / "lock", patience):
            with contextlib.suppress(ValueError, ProcessLookupError):
                os.kill(int((folder / "lock").read_text()), signal.SIGTERM)
            wait_free(folder / "lock", patience)


def resume(root: Path) -> None:
    """After `quiesce`, let the sender work again; start it where spools wait."""
    if root in _paused:
        os.close(_paused.pop(root))
        if _waiting(home(root)):
            ensure_sender(root)


def away(root: Path) -> str | None:
    """One line for the user where the tracking server is away and runs are kept; else None."""
    status = home(root) / "status.json"
    kept = len(list(home(root).glob("*.jsonl")))
    with contextlib.suppress(OSError, ValueError, KeyError):
        if kept and status.is_file():
            told = read_json(status)
            return (
                f"tracking: server away ({told['server']}: {told['why']}), "
                f"{kept} runs kept for `python -m stages track`"
            )
    return None


def main(root: Path) -> None:
    """Serve until there is nothing to do."""
    os.nice(5)  # a stage goes first
    while True:
        # Others hold the lock for a moment when they look whether it is held.
        with held(home(root) / "lock", patience=1.0) as mine:
            if not mine:
                return
            idle = _serve(root)
        # A stage that saw the lock held did not start a sender: its spool is there by now.
        if not idle or is_held(home(root) / "pause") or not _waiting(home(root)):
            return


def _serve(root: Path) -> bool:
    """Send until idle (True), or until asked to leave or the project is gone (False)."""
    from stages.core.tracking.address import server_name
    from stages.core.tracking.drain import Drain, ServerAway
    from stages.core.tracking.mlflow_sink import MlflowSink

    folder, status = home(root), home(root) / "status.json"
    drain = Drain(root, lambda: MlflowSink(root))
    last, retry, wait = time.monotonic(), 0.0, RETRY[0]
    while _mine(folder / "lock") and not is_held(folder / "pause"):
        now, moved = time.monotonic(), 0
        if now >= retry:
            try:
                moved = drain.step()
                status.unlink(missing_ok=True)
                wait = RETRY[0]
            except ServerAway as error:
                log.warning("%s", error)
                if folder.is_dir():
                    write_json(status, {"server": server_name(root), "why": str(error)})
                retry, wait = now + wait, min(2 * wait, RETRY[1])
        if moved or drain.live():
            last = time.monotonic()
        if time.monotonic() - last > IDLE:
            return retry <= now
        if moved < BACKLOG:
            time.sleep(POLL)
    return False


def _mine(lock: Path) -> bool:
    """Whether the lock file is still the one that this process holds (the project may be gone)."""
    try:
        return lock.read_text() == str(os.getpid())
    except FileNotFoundError:
        return False


def _waiting(folder: Path) -> bool:
    """Whether a spool holds lines that are not sent, or is done and not cleared away."""
    return any(folder.glob("*.jsonl"))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format=FORMAT)
    main(Path(sys.argv[1]))
