"""The numbers of one cell: estimate, interval, what censoring leaves open, seeds still needed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stages.claims.select import Pair
from stages.core import stats
from stages.core.stats import CONFIDENCE, Array, How, Interval, Items, Kind

NORMAL = 1.96
"""Standard errors to either side in an interval of 95 %."""


@dataclass(frozen=True)
class End:
    """The comparison computed for one end of what censoring leaves open.

    Attributes:
        value: of all scores.
        seeds: of each seed alone, (S,).
        units: what the t interval is made from, see `stats.units`.
        draws: of the bootstrap, (R,).
        items_sd: standard error that the choice of test items alone makes.
        capped: whether infinity stands for some scores, which exceed a cap.
        exact: what binomial bounds leave open where scores are right or wrong, see `binomial`;
            None for all other scores.
    """

    value: float
    seeds: Array
    units: Array
    draws: Array
    items_sd: float
    capped: bool
    exact: tuple[float, float] | None = None

    def interval(self, kind: Kind) -> Interval:
        found = stats.wider(self.units, self.draws, self.value, kind)
        if self.exact is None:
            return found
        low, high = self.exact
        return Interval(found.value, min(found.low, low), max(found.high, high))


@dataclass(frozen=True)
class Measured:
    """A measured comparison.

    Attributes:
        least, most: the same object unless scores are censored.
        count, items: seeds and test items behind it.
    """

    kind: Kind
    least: End
    most: End
    count: int
    items: int

    @property
    def bounded(self) -> str:
        """What censoring makes of the value: "at least" or "at most" it, "open", or nothing."""
        if self.least is self.most or self.least.value == self.most.value:
            return ""
        if self.least.capped and self.most.capped:
            return "open"
        return "at least" if self.most.capped else "at most"

    @property
    def interval(self) -> Interval:
        """Value and 95 % interval; an end that nothing bounds is infinite, an open value NaN."""
        low, high = self.least.interval(self.kind), self.most.interval(self.kind)
        values = {"": low.value, "at least": low.value, "at most": high.value, "open": math.nan}
        return Interval(values[self.bounded], low.low, high.high)

    def seeds_to_settle(self, bound: float) -> int | None:
        """Seeds that would tell the value from `bound`, or None if seeds alone would not."""
        if self.bounded or self.count < 2 or not np.isfinite(self.least.seeds).all():
            return None
        end = self.least
        spread, items_sd = float(end.seeds.std(ddof=1)), end.items_sd
        if end.exact is not None:  # of the items, which no seed adds to
            items_sd = max(items_sd, (end.exact[1] - end.exact[0]) / 2 / NORMAL)
        return stats.seeds_to_settle(spread, abs(end.value - bound), items_sd=items_sd)


def measure(pair: Pair, how: How, kind: Kind, items: str) -> Measured:
    """Measure one comparison of an arm and its baseline.

    A single score that is not a count has no interval: both ends are infinite.
    """
    least, most = stats.extremes(pair.a, pair.b, pair.a_censored, pair.b_censored, kind)
    lower = _end(*least, how, kind, items)
    censored = bool(pair.a_censored.any() or pair.b_censored.any())
    upper = _end(*most, how, kind, items) if censored else lower
    return Measured(kind, lower, upper, pair.seeds, pair.items)


def average(cells: list[Measured]) -> Measured:
    """The mean of several cells, draw by draw, seed by seed.

    Raises:
        ValueError: the cells have different numbers of seeds.
    """
    if len({(cell.count, len(cell.least.units)) for cell in cells}) > 1:
        raise ValueError("the mean of cells needs the same number of seeds in each")
    return Measured(
        cells[0].kind,
        _average([cell.least for cell in cells]),
        _average([cell.most for cell in cells]),
        cells[0].count,
        sum(cell.items for cell in cells),
    )


def _average(ends: list[End]) -> End:
    return End(
        float(np.mean([end.value for end in ends])),
        np.mean([end.seeds for end in ends], axis=0),
        np.mean([end.units for end in ends], axis=0),
        np.mean([end.draws for end in ends], axis=0),
        math.sqrt(sum(end.items_sd**2 for end in ends)) / len(ends),
        any(end.capped for end in ends),
        _mean_bounds([end.exact for end in ends]),
    )


def _mean_bounds(bounds: list[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [b for b in bounds if b is not None]
    if len(known) < len(bounds):
        return None
    low, high = np.mean(known, axis=0)
    return float(low), float(high)


def binomial(a: Array, b: Array) -> tuple[float, float]:
    """Bounds of the difference of two shares of the same test items, right (1) or wrong (0).

    Where nearly every item is right, or wrong, in both arms, no resampling shows what a further
    item could do. The shares of items in which the one arm is right and the other wrong have
    Clopper and Pearson's exact bounds (of all items, however many seeds were judged on them), and
    bounds of their difference follow by Zou and Donner's combination [2008,
    doi 10.1002/sim.3095]. With n items and no such one it is 1 - 0.025^(1/n) to either side.

    Args:
        a, b: (S, I); an item counts by the share of seeds.
    """
    more, fewer = (a > b).mean(0), (a < b).mean(0)
    count = a.shape[1]
    p, p_low, p_high = _clopper(float(more.sum()), count)
    q, q_low, q_high = _clopper(float(fewer.sum()), count)
    low = p - q - math.hypot(p - p_low, q_high - q)
    return low, p - q + math.hypot(p_high - p, q - q_low)


def _clopper(hits: float, count: int) -> tuple[float, float, float]:
    """A share and its exact bounds; between whole numbers of hits these are interpolated by the
    same formula."""
    from scipy.stats import beta

    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, hits, count - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, count - hits)) if hits < count else 1.0
    return hits / count, low, high


def _end(a: Array, b: Array | None, how: How, kind: Kind, items: str) -> End:
    value = stats.estimate(a, b, how, kind)
    seeds = stats.per_seed(a, b, how, kind)
    capped = bool(np.isinf(a).any() or (b is not None and np.isinf(b).any()))
    if a.size == 1:
        only = value if items == "counted" else math.nan
        return End(value, seeds, seeds, np.full(stats.RESAMPLES, only), 0.0, capped)
    drawn: Items = "repeats" if items == "repeats" else "shared"
    units = stats.units(a, b, how, kind, drawn)
    draws = stats.bootstrap(a, b, how, kind, drawn)
    fixed = stats.bootstrap(a, b, how, kind, drawn, resamples=500, draw_seeds=False)
    finite = fixed[np.isfinite(fixed)]
    items_sd = float(finite.std()) if len(finite) > 1 else 0.0
    exact = None
    shares = (kind, how, items) == ("difference", "mean", "shared") and a.shape[1] > 1
    if shares and b is not None and np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        exact = binomial(a, np.broadcast_to(b, a.shape))
    return End(value, seeds, units, draws, items_sd, capped, exact)
