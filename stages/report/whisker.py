"""A claim's number as a picture of one line: interval, published value, point of no effect."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from stages.report.numbers import known

WIDTH, MARGIN = 144.0, 6.0


@dataclass(frozen=True)
class Whisker:
    """Horizontal places in a box `WIDTH` wide; None for what is not there."""

    value: float
    low: float
    high: float
    published: float | None
    neutral: float | None


def whisker(claim: dict[str, Any]) -> Whisker | None:
    """Place a claim's numbers on one axis; None where there is no interval to draw."""
    value, low, high = claim["value"], claim["low"], claim["high"]
    if not (known(value) and known(low) and known(high)) or low == high:
        return None
    marks = {"published": claim["published"], "neutral": claim["neutral"]}
    there = [value, low, high, *(x for x in marks.values() if known(x))]
    first, last = min(there), max(there)
    if not math.isfinite(last - first):
        return None

    def at(x: float) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * (x - first) / (last - first), 1)

    placed = {name: at(x) if known(x) else None for name, x in marks.items()}
    return Whisker(at(value), at(low), at(high), **placed)
