"""What was spent on a stage before it was killed counts in its receipt."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from stages.core.dag import Node
from stages.core.resume import held

NODE = Node("demo", "teach", None, None, (), (), ())


def attempt(root: Path, key: str, left_after: float | None = None) -> float:
    """Seconds of earlier attempts; this one leaves a file so long after it began."""
    with held(root, NODE, key, print) as (folder, earlier):
        if left_after is not None:
            (folder / "net").mkdir(exist_ok=True)
            (folder / "net/state.pt").touch()
            then = time.time() + left_after
            os.utime(folder / "net/state.pt", (then, then))
    return earlier


def test_each_attempt_counts_up_to_what_it_left(tmp_path: Path) -> None:
    assert attempt(tmp_path, "a", 50.0) == 0.0
    assert attempt(tmp_path, "a", 20.0) == pytest.approx(50.0, abs=1.0)
    assert attempt(tmp_path, "a", -1.0) == pytest.approx(70.0, abs=2.0)
    assert attempt(tmp_path, "a") == pytest.approx(70.0, abs=2.0), "the last left nothing newer"


def test_a_stage_that_leaves_nothing_is_done_anew(tmp_path: Path) -> None:
    assert [attempt(tmp_path, "a") for _ in range(3)] == [0.0, 0.0, 0.0]


def test_other_inputs_begin_at_nothing(tmp_path: Path) -> None:
    attempt(tmp_path, "a", 50.0)
    assert attempt(tmp_path, "b") == 0.0


def test_a_clock_that_went_back_costs_nothing(tmp_path: Path) -> None:
    attempt(tmp_path, "a", -7200.0)
    assert attempt(tmp_path, "a") == 0.0
