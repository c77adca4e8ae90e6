"""What a run side by side tells: a line a running stage, counts, time left, what is lost beside."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stages.core import live
from stages.core.attempt import Outcome
from stages.core.dag import Node
from stages.core.live import Live
from stages.core.schedule import Machine, Schedule


def node(name: str, *reads: str) -> Node:
    return Node("p", name, None, None, tuple(f"work/p/{r}" for r in reads), (), (f"work/p/{name}",))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> tuple[Live, io.StringIO]:
    """b and c stand on a, d on b; they took 60, 120, 120 and 240 s the last time."""
    now = iter(range(0, 100_000, 1))
    monkeypatch.setattr(live.time, "monotonic", lambda: float(next(now)))
    nodes = [node("a"), node("b", "a"), node("c", "a"), node("d", "b")]
    took = dict(zip((n.address for n in nodes), (60.0, 120.0, 120.0, 240.0), strict=True))
    told = io.StringIO()
    return Live(Schedule(nodes, took), 2, Console(file=told, width=100)), told


def start(shown: Live) -> list[str]:
    taken = [a for a, _ in shown.schedule.start(Machine(cores=2, slots=2))]
    for address in taken:
        shown.start(address)
    return taken


def end(shown: Live, address: str, outcome: Outcome) -> None:
    shown.end(address, outcome, shown.schedule.end(address, outcome.state))


def test_counts_and_the_time_left(run: tuple[Live, io.StringIO]) -> None:
    shown, told = run
    assert shown.counts() == "0 of 4 stages; about 7 min left", "a, b and d are the longest chain"
    (a,) = start(shown)
    end(shown, a, Outcome("ran", 61.0))
    assert shown.counts() == "1 of 4 stages: 1 ran; about 6 min left"
    b, c = start(shown)
    shown.say(b, "step 5/10 loss 0.1\n")
    page = Console(file=io.StringIO(), width=100, record=True)
    page.print(shown)
    lines = page.export_text().splitlines()
    assert lines[0].startswith("p b ") and "step 5/10 loss 0.1" in lines[0]
    assert lines[1].startswith("p c ") and lines[2].startswith("1 of 4 stages")
    end(shown, b, Outcome("failed", 3.0, "params.yaml: no such key"))
    end(shown, c, Outcome("cached", 1.0))
    assert shown.counts() == "4 of 4 stages: 1 ran, 1 cached, 1 failed, 1 left out"
    assert "p b: failed (3.0 s)\nparams.yaml: no such key\nleft out for it: p d" in told.getvalue()


def test_what_was_lost_beside_the_work(run: tuple[Live, io.StringIO]) -> None:
    shown, told = run
    (a,) = start(shown)
    end(shown, a, Outcome("ran", 61.2))
    b, c = start(shown)
    end(shown, b, Outcome("ran", 122.0))
    end(shown, c, Outcome("cached", 0.5))  # which did nothing, and does not count
    shown.overhead({a: 60.0, b: 120.0, c: 120.0})
    assert "beside their own work stages took 1.6 s each (median)" in told.getvalue()
