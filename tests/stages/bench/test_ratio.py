"""Ratios of processor time, by a clock that the work itself moves."""

from __future__ import annotations

import time

import pytest

from stages.bench import ratio


def test_the_median_of_turns_that_share_whatever_slows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first round and an interrupted turn do not count; a slow turn is slow for both."""
    now, slow = [0.0], iter([100, 100, 1, 1, 5, 5, 1, 50])

    def work(units: float) -> None:
        now[0] += 1e-3 * units * next(slow)

    monkeypatch.setattr(time, "process_time", lambda: now[0])
    found = ratio.measure(lambda: work(2), lambda: work(3), turns=3)
    assert found.value == pytest.approx(1.5)
    assert (found.plain, found.work) == (pytest.approx(2), pytest.approx(15))


def test_no_turn_is_no_ratio() -> None:
    with pytest.raises(ValueError, match="0 turns"):
        ratio.measure(lambda: None, lambda: None, turns=0)
