"""The stage's side: what it says is kept, cheaply, and never fails it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from stages.core.tracking import sender
from stages.core.tracking.spool import DENSE, NullTracker, home
from tests.stages.core.tracking.told import (
    CODE,
    opened,
)


def test_a_stage_imports_nothing_heavy_for_tracking() -> None:
    program = (
        "import sys; from stages.core.tracking import sender, spool;"
        "print([m for m in ('mlflow', 'torch', 'pandas', 'numpy', 'sqlite3', 'urllib.request',"
        " 'subprocess', 'rich') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=CODE, capture_output=True)
    assert answer.stdout.decode().strip() == "[]", answer


def test_tracking_never_raises_and_keeps_the_error(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file where a folder should be")
    tracker = opened(tmp_path)
    assert tracker.error and "work" in tracker.error
    for broken in (tracker, NullTracker()):
        broken.metric("loss", 1.0)
        broken.picture(tmp_path / "absent.svg")
        broken.model("dense", tmp_path / "absent.onnx")
        broken.dataset("speech", "d1", "voices")
        broken.results(tmp_path / "absent")
        broken.close("FINISHED")
    whole = opened(tmp_path / "project")
    whole.metric("loss", "no number")  # type: ignore[arg-type]
    assert whole.error and "no number" in whole.error
    whole.picture(tmp_path / "absent.svg")
    assert whole.error and "absent.svg" in whole.error
    whole.close("FINISHED")
    sender.ensure_sender(tmp_path)  # cannot write there, and says nothing


def test_long_curves_are_thinned_and_keep_their_last_point(tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    for step in range(10_000):
        tracker.metric("loss", step, step=step, seed=0)
    for step in range(DENSE):
        tracker.metric("short", step, step=step)
    tracker.close("FINISHED")
    lines = [json.loads(x) for x in (home(tmp_path) / "k1.jsonl").read_text().splitlines()]
    steps = [e["s"] for e in lines if e.get("n") == "loss"]
    assert steps[:DENSE] == list(range(DENSE)) and steps[-1] == 9_999
    assert len(steps) < 6.5 * DENSE and steps == sorted(set(steps))
    assert sum(e.get("n") == "short" for e in lines) == DENSE
