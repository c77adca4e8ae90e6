"""The process in the background: live curves, kills, a machine left alone to a bench."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.core.tracking import sender
from stages.core.tracking.locks import is_held
from stages.core.tracking.spool import DENSE, home
from tests.stages.core.tracking.told import (
    CODE,
    drained,
    history,
    opened,
    runs,
    until,
)


def started(root: Path, more: str = "pass") -> subprocess.Popen[bytes]:
    """A sender as a child of the test."""
    program = (
        "import sys; from pathlib import Path; from stages.core.tracking import sender;"
        f"{more}; sender.main(Path(sys.argv[1]))"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(root)], cwd=CODE)


def test_curves_are_live_and_the_sender_ends_by_itself(project: Path) -> None:
    tracker = opened(project)
    tracker.metric("loss", 1.0, step=0)
    process = started(project, "sender.IDLE = 1.0")
    second = started(project, "sender.IDLE = 1.0")
    try:
        until(lambda: "prune@random-0-1" in runs(project))
        begin = time.monotonic()
        tracker.metric("loss", 2.0, step=1)
        run = runs(project)["prune@random-0-1"]
        until(lambda: len(history(project, run, "loss")) == 2)
        assert time.monotonic() - begin < 5
        assert runs(project)["prune@random-0-1"].info.status == "RUNNING"
        tracker.close("FINISHED")
        assert process.wait(30) == 0 and second.wait(30) == 0
    finally:
        process.kill()
        second.kill()
    assert runs(project)["prune@random-0-1"].info.status == "FINISHED"
    assert not list(home(project).glob("*.jsonl"))


@pytest.mark.slow
def test_a_sender_killed_at_any_moment_doubles_nothing(project: Path) -> None:
    tracker = opened(project)
    for step in range(DENSE):
        for name in range(40):
            tracker.metric(f"m{name}", step, step=step, seed=name % 2)
    tracker.close("FINISHED")
    spool, mark = home(project) / "k1.jsonl", home(project) / "k1.offset"
    lines = spool.read_bytes().count(b"\n")
    killed = 0
    for moment in (0.0, 0.05, 0.1):
        before = mark.read_text() if mark.is_file() else ""
        process = started(project, "from stages.core.tracking import drain; drain.CHUNK = 32768")
        until(lambda b=before: not spool.exists() or (mark.is_file() and mark.read_text() != b))
        time.sleep(moment)
        process.kill()
        process.wait()
        killed += spool.exists()
    assert killed >= 2, f"the sender was done with {lines} lines before it could be killed"
    drained(project)
    found = runs(project)
    assert found["prune@random-0-1"].info.status == "FINISHED"
    for name in range(40):
        child = found[f"prune@random-0-1 seed {name % 2}"]
        assert [s for s, _ in history(project, child, f"m{name}")] == list(range(DENSE))


def test_a_bench_has_the_machine_alone(project: Path) -> None:
    tracker = opened(project)
    sender.ensure_sender(project)
    until(lambda: is_held(home(project) / "lock"))
    sender.quiesce(project)
    assert not is_held(home(project) / "lock")
    sender.ensure_sender(project)
    late = started(project)
    assert late.wait(20) == 0, "a sender that starts meanwhile goes away again"
    assert not is_held(home(project) / "lock")
    tracker.metric("latency_ms", 3.0)
    tracker.close("FINISHED")
    sender.resume(project)
    until(lambda: not (home(project) / "k1.jsonl").exists())
    assert runs(project)["prune@random-0-1"].data.metrics == {"latency_ms": 3.0}


def test_a_sender_leaves_when_the_project_is_gone(tmp_path: Path) -> None:
    tracker = opened(tmp_path / "gone")
    process = started(tmp_path / "gone", "sender.IDLE = 60")
    try:
        until(lambda: is_held(home(tmp_path / "gone") / "lock"))
        shutil.rmtree(tmp_path / "gone")
        process.wait(20)
    finally:
        process.kill()
        process.wait()
    tracker.close("FINISHED")
    assert not (tmp_path / "gone").exists()
