"""From an interval to a verdict, and from the verdicts of cells to that of a claim."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stages.claims.model import (
    AtLeast,
    AtMost,
    BetterThan,
    Check,
    Claim,
    Equivalent,
    NonInferior,
    Tolerance,
)
from stages.core.errors import UserError
from stages.core.stats import NEUTRAL, Array, Interval

HOLDS, IN_DIRECTION, FAILS = "holds", "holds in direction", "fails"
INCONCLUSIVE, NOT_HERE = "inconclusive", "not testable here"
PASSED, FAILED = "check passed", "check failed"

LADDER = {FAILED: 0, FAILS: 0, INCONCLUSIVE: 1, IN_DIRECTION: 2, HOLDS: 3, PASSED: 3}


@dataclass(frozen=True)
class Line:
    """What the interval is held against, in the unit of the comparison.

    Attributes:
        side: +1 if the claimed side lies above `bound`, -1 if below.
        strict: whether the bound itself is outside the claimed side.
        target: the published size less the tolerance; None where no size was published.
    """

    side: int
    bound: float
    strict: bool
    target: float | None

    def margin(self, number: float) -> float:
        """How far `number` lies on the claimed side of the bound (negative: on the other)."""
        return self.side * (number - self.bound)

    def reaches(self, number: float) -> bool:
        return self.target is None or self.side * (number - self.target) >= 0


def line(claim: Claim, published: float | None, direction: str) -> Line:
    """The line that one cell of a claim is held against (rules `exact` and `check` have none).

    Raises:
        UserError: the rule goes by the metric's direction, and it has none.
    """
    rule, kind = claim.rule, claim.measure.compare
    if isinstance(rule, AtLeast | AtMost):
        side = 1 if isinstance(rule, AtLeast) else -1
        return Line(side, rule.bound - side * _width(claim.tolerance, rule.bound), False, None)
    if kind in ("speedup", "saving"):
        side = 1
    elif direction == "none":
        raise UserError(f"rule {rule.kind}: '{claim.measure.metric}' has no better direction")
    else:
        side = 1 if direction == "higher" else -1
    if isinstance(rule, NonInferior):
        return Line(side, -side * rule.margin, False, None)
    assert isinstance(rule, BetterThan)
    bound = NEUTRAL[kind] if rule.than is None else rule.than
    target = None
    if published is not None:
        target = published - side * _width(claim.tolerance, published - bound)
    return Line(side, bound, True, target)


def tied(where: Line, measured: Interval) -> bool:
    """Whether a strict rule meets an interval without width at its very bound: scores were drawn,
    and none of them tells the arms apart."""
    return where.strict and measured.low == measured.high == where.bound


def judge(where: Line, measured: Interval, *, counted: bool) -> str:
    """holds, holds in direction, fails or inconclusive, as README.md defines them.

    Args:
        counted: exact numbers, for which to be equal is not to be better; of samples that are all
            alike nothing follows.
    """
    near = measured.low if where.side > 0 else measured.high
    far = measured.high if where.side > 0 else measured.low
    if math.isnan(measured.value) or (tied(where, measured) and not counted):
        return INCONCLUSIVE
    on = where.margin(near) > 0 if where.strict else where.margin(near) >= 0
    off = where.margin(far) <= 0 if where.strict else where.margin(far) < 0
    if on:
        return HOLDS if where.reaches(measured.value) else IN_DIRECTION
    return FAILS if off else INCONCLUSIVE


def judge_exact(measured: Interval, published: float, tolerance: Tolerance | None) -> str:
    """holds if the interval lies within the tolerance around the published number."""
    return _within(measured, published, _width(tolerance, published))


def judge_equivalent(rule: Equivalent, measured: Interval) -> str:
    """holds if the interval of the difference lies within the margin to either side of none."""
    return _within(measured, 0.0, rule.margin)


def _within(measured: Interval, middle: float, width: float) -> str:
    least, most = middle - width, middle + width
    if least <= measured.low and measured.high <= most:
        return HOLDS
    return FAILS if measured.high < least or measured.low > most else INCONCLUSIVE


def judge_check(rule: Check, estimates: Array, tolerance: Tolerance | None) -> str:
    """A check passes if every seed by itself is as we set it."""
    width = _width(tolerance, rule.bound)
    if rule.must_be == "equal":
        passed = abs(estimates - rule.bound) <= width
    else:
        side = 1 if rule.must_be == "at_least" else -1
        passed = side * (estimates - rule.bound) >= 0
    return PASSED if bool(passed.all()) else FAILED


def combine(how: str, verdicts: list[str], left_out: int) -> tuple[str, int]:
    """One verdict from those of the tested cells, and how many of them count as passed over.

    each: the worst. any: the best. most: over half of all cells must reach it, those left out
    included; while these could still turn it, inconclusive.

    Args:
        verdicts: of the tested cells, best first.
        left_out: cells that are not testable here.

    Returns:
        The verdict, and the rank among `verdicts` of the cell that decided.
    """
    if how == "any":
        return verdicts[0], 0
    if how != "most":
        return verdicts[-1], len(verdicts) - 1
    need = (len(verdicts) + left_out) // 2 + 1
    rank = min(need, len(verdicts)) - 1
    least = verdicts[need - 1] if need <= len(verdicts) else FAILS
    hoped = [HOLDS] * left_out + verdicts
    if LADDER[least] >= LADDER[IN_DIRECTION] or LADDER[hoped[need - 1]] == LADDER[least]:
        return least, rank
    return INCONCLUSIVE, rank


def _width(tolerance: Tolerance | None, size: float) -> float:
    return 0.0 if tolerance is None else tolerance.width(size)
