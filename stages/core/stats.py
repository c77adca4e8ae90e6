"""Intervals for scores that vary by seed and by test item.

Scores of one arm are an array (S, I): S seeds (training runs) by I test items. Two arms are
paired: the same seed and the same item in the same place. A baseline that exists once (one
teacher) is an array (1, I) and is paired on items.

The interval is a paired hierarchical bootstrap: seeds are drawn with replacement, then test items.
All seeds are judged on the same items, so one draw of items serves all drawn seeds (the
"pigeonhole" bootstrap for crossed data, Owen 2007, doi 10.1214/07-AOAS122). Drawing items anew for
each seed would treat S x I scores as independent and give intervals that are too short. Rounds of
repeated measurements (latency), in which the arms took turns, pair the arms but have nothing in
common between seeds: for these, `items="repeats"` draws anew for each seed.

A bootstrap over few seeds is too short: it misses the factor S/(S-1) of the variance and uses the
normal in place of Student's quantile. The t interval over seeds is free of that, but blind to
the choice of items. `interval` gives the wider of the two. It matters most below five seeds, but
simulation finds the bootstrap alone at 85 % for five and 92 % for ten, so it is done throughout.
With a single seed, the rounds of a repeated measurement stand in for the seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
How = Literal["mean", "median", "gmean"]
Kind = Literal["value", "difference", "ratio", "speedup", "share", "saving"]
Items = Literal["shared", "repeats"]

RESAMPLES = 5_000
CONFIDENCE = 0.95
NEUTRAL: dict[Kind, float] = {
    "difference": 0.0,
    "ratio": 1.0,
    "speedup": 1.0,
    "share": 100.0,
    "saving": 0.0,
}
"""What each comparison gives for two arms that are alike."""
_CELLS = 2_000_000  # numbers drawn at once: 16 MB an array, whatever the number of resamples


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; `low` and `high` are infinite where nothing bounds them."""

    value: float
    low: float
    high: float


def aggregate(scores: Array, how: How) -> Array:
    """Aggregate over the last two axes, seeds and items: (..., S, I) -> (...).

    The geometric mean of scores that are not all positive is NaN.
    """
    if how == "mean":
        return np.asarray(scores.mean(axis=(-2, -1)))
    if how == "median":
        return np.asarray(np.median(scores, axis=(-2, -1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.exp(np.log(scores).mean(axis=(-2, -1))))


def compare(a: Array, b: Array | None, kind: Kind) -> Array:
    """Compare the aggregates `a` (the arm) and `b` (its baseline), element by element.

    value: a.  difference: a - b.  ratio: a / b.  speedup: b / a.  share: 100 a / b in percent.
    saving: 100 (1 - a / b) in percent. A ratio of numbers that are not above zero means nothing
    and is NaN.

    Raises:
        ValueError: `kind` needs a baseline and there is none, or the reverse.
    """
    if (b is None) != (kind == "value"):
        raise ValueError(f"'{kind}' {'takes no' if kind == 'value' else 'needs a'} baseline")
    if b is None:
        return a
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "difference":
            return np.asarray(a - b)
        upper, lower = (b, a) if kind == "speedup" else (a, b)
        ratio = np.where(lower > 0, upper / lower, np.nan)
    if kind == "share":
        return 100 * ratio
    return 100 * (1 - ratio) if kind == "saving" else ratio


def estimate(a: Array, b: Array | None, how: How, kind: Kind) -> float:
    """The comparison of the aggregates of all scores: `a` is (S, I), `b` (S, I) or (1, I)."""
    return float(compare(aggregate(a, how), None if b is None else aggregate(b, how), kind))


def per_seed(a: Array, b: Array | None, how: How, kind: Kind) -> Array:
    """The comparison made for each seed by itself: (S,)."""
    b_seeds = None if b is None else np.broadcast_to(b, (len(a), b.shape[1]))
    return compare(
        aggregate(a[:, None], how),
        None if b_seeds is None else aggregate(b_seeds[:, None], how),
        kind,
    )


def bootstrap(
    a: Array,
    b: Array | None,
    how: How,
    kind: Kind,
    items: Items = "shared",
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    draw_seeds: bool = True,
) -> Array:
    """Draws of the comparison under the paired hierarchical bootstrap: (resamples,).

    Arrays of the same shape are drawn alike for the same `seed`, so that draws of several cells
    may be averaged one by one.

    Args:
        a: scores of the arm, (S, I).
        b: scores of the baseline, (S, I) or (1, I); None for `kind="value"`.
        items: "shared": the same test items for every seed and arm; "repeats": rounds of a
            measurement, which the arms of one seed share.
        draw_seeds: False keeps the seeds as they are, which leaves the part of the variance that
            the choice of items makes.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if b is not None and (len(b) not in (1, len(a)) or b.shape[1] != a.shape[1]):
        raise ValueError(f"shapes {a.shape} and {b.shape} cannot be paired")
    count, length = a.shape
    rng = np.random.default_rng(seed)
    base = None if b is None else np.broadcast_to(b, a.shape)
    block = max(1, _CELLS // a.size)
    draws = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        seeds = rng.integers(count, size=(rows, count, 1))
        if not draw_seeds:
            seeds = np.broadcast_to(np.arange(count)[:, None], seeds.shape)
        picks = rng.integers(length, size=(rows, 1 if items == "shared" else count, length))
        drawn = None if base is None else aggregate(base[seeds, picks], how)
        draws.append(compare(aggregate(a[seeds, picks], how), drawn, kind))
    return np.concatenate(draws)


def units(a: Array, b: Array | None, how: How, kind: Kind, items: Items) -> Array:
    """Estimates that the t interval takes for independent: one per seed, (S,).

    With a single seed and repeated measurements: one per round, (I,).
    """
    if len(a) == 1 and items == "repeats":
        return compare(a[0], None if b is None else b[0], kind)
    return per_seed(a, b, how, kind)


def percentile_interval(draws: Array, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The central interval of `draws`. A draw without meaning (NaN) counts as unbounded."""
    tail = (1 - confidence) / 2
    low = np.sort(np.where(np.isnan(draws), -np.inf, draws))
    high = np.sort(np.where(np.isnan(draws), np.inf, draws))
    last = len(draws) - 1  # whole ranks: interpolating between infinities would give NaN
    return float(low[math.floor(tail * last)]), float(high[math.ceil((1 - tail) * last)])


def t_interval(
    estimates: Array,
    confidence: float = CONFIDENCE,
    *,
    log: bool = False,
    centre: float | None = None,
) -> tuple[float, float]:
    """Student's interval for the mean of independent estimates, (N,) with N >= 2.

    Args:
        log: work on logarithms, as for ratios; the centre is then the geometric mean.
        centre: put the interval around this number instead.
    """
    from scipy import stats

    if not np.isfinite(estimates).all():
        return -math.inf, math.inf
    x = np.log(estimates) if log else estimates
    middle = float(x.mean()) if centre is None else (math.log(centre) if log else centre)
    spread = float(x.std(ddof=1)) / math.sqrt(len(x))
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 1)) * spread
    low, high = middle - half, middle + half
    return (math.exp(low), math.exp(high)) if log else (low, high)


def wider(estimates: Array, draws: Array, value: float, kind: Kind) -> Interval:
    """The wider of the bootstrap's interval and, with two estimates or more, the t interval."""
    low, high = percentile_interval(draws)
    if len(estimates) > 1 and math.isfinite(value):
        log = kind in ("ratio", "speedup") and bool((estimates > 0).all())
        t_low, t_high = t_interval(estimates, log=log, centre=value)
        if t_high - t_low > high - low:
            low, high = t_low, t_high
    return Interval(value, low, high)


def interval(
    a: Array, b: Array | None, how: How, kind: Kind, items: Items = "shared", *, seed: int = 0
) -> Interval:
    """The 95 % interval of the comparison of two arms: the wider of bootstrap and t.

    With a single seed it speaks for that one training run; with a single score it is unbounded.
    """
    value = estimate(a, b, how, kind)
    if a.size == 1:
        return Interval(value, -math.inf, math.inf)
    draws = bootstrap(a, b, how, kind, items, seed=seed)
    return wider(units(a, b, how, kind, items), draws, value, kind)


def extremes(
    a: Array,
    b: Array | None,
    a_censored: NDArray[np.bool_],
    b_censored: NDArray[np.bool_],
    kind: Kind,
) -> tuple[tuple[Array, Array | None], tuple[Array, Array | None]]:
    """Scores that make the comparison least and most, where some are only known to exceed a cap.

    A censored score stands for "at least this much": it lies between its value and infinity.
    Returns the pair (a, b) for the lower end and the one for the upper end. Where `b` is None,
    `b_censored` is not looked at.
    """
    a_most = np.where(a_censored, np.inf, a)
    b_most = None if b is None else np.where(b_censored, np.inf, b)
    if kind in ("speedup", "saving"):  # these fall as `a` grows
        return (a_most, b), (a, b_most)
    return (a, b_most), (a_most, b)


def seeds_for_width(
    sd: float, half_width: float, *, items_sd: float = 0.0, most: int = 1_000
) -> int | None:
    """The fewest seeds whose 95 % interval is expected to reach `half_width` to either side.

    Args:
        sd: standard deviation between seeds of the estimate made for one seed.
        items_sd: standard error that the choice of test items adds; no seed lessens it.
        most: beyond this many, None.
    """
    from scipy import stats

    counts = np.arange(2, most + 1)
    error = np.sqrt(sd**2 / counts + items_sd**2)
    enough = stats.t.ppf((1 + CONFIDENCE) / 2, counts - 1) * error <= half_width
    return int(counts[np.argmax(enough)]) if enough.any() else None


def seeds_to_settle(
    sd: float, distance: float, *, items_sd: float = 0.0, power: float = 0.8, most: int = 1_000
) -> int | None:
    """The fewest seeds that tell, with this power, a true `distance` from zero (t test, 5 %).

    Arguments as in `seeds_for_width`; None where `most` seeds would not do, as when test items,
    not seeds, are what is missing.
    """
    from scipy import stats

    if not distance > 0 or not math.isfinite(distance):
        return None
    counts = np.arange(2, most + 1)
    error = np.sqrt(sd**2 / counts + items_sd**2)
    limit = stats.t.ppf((1 + CONFIDENCE) / 2, counts - 1)
    far = 40.0  # errors off is certain with any number of seeds, and no strain on the arithmetic
    offset = distance / np.maximum(error, distance / far)
    enough = stats.nct.sf(limit, counts - 1, offset) >= power
    return int(counts[np.argmax(enough)]) if enough.any() else None
