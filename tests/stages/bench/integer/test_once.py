"""A piece of work in a process of its own: what is timed and what is not."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from stages.bench.integer import once
from stages.bench.integer.once import Task

ENTRY = "tests.stages.bench.integer.test_once:work"


def work(loops: int, megabytes: int, load: int) -> Callable[[], None]:
    """Work of that much arithmetic and memory, after a load that is not to count."""
    held = bytearray(load * 1_000_000)
    _spin(load)

    def run() -> None:
        taken = bytearray(megabytes * 1_000_000)
        taken[::4096] = b"x" * len(taken[::4096])
        _spin(loops)
        assert len(held) == load * 1_000_000

    return run


def _spin(loops: int) -> None:
    end = time.process_time() + loops / 1000
    while time.process_time() < end:
        pass


def test_work_is_timed_without_what_it_needs() -> None:
    runs: list[int] = []
    tasks = {
        "small": {"loops": 50, "megabytes": 1, "load": 40},
        "large": {"loops": 400, "megabytes": 60, "load": 1},
    }
    made = {name: Task(ENTRY, arguments) for name, arguments in tasks.items()}
    small, large = once.measure(made, 1, 1, lambda: runs.append(1))
    assert (small.name, large.name) == ("small", "large") and len(runs) == 2
    # Milliseconds of processor time; interpreters need some more.
    assert 0.05 <= small.median < 0.35 and 0.4 <= large.median < 0.7
    if small.rises_mb:
        assert small.rises_mb[0] < 30 and 55 < large.rises_mb[0] < 75


def test_a_failure_tells_why() -> None:
    with pytest.raises(RuntimeError, match="unexpected keyword argument 'nothing'"):
        once.measure({"a": Task(ENTRY, {"nothing": 1})}, 1, 1)
