"""Sentences about claims, for people: how measured, by which rule, why this verdict."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stages.claims.model import (
    UNITS,
    AtLeast,
    AtMost,
    BetterThan,
    Cell,
    Check,
    Claim,
    Equivalent,
    Exact,
    Needs,
    NonInferior,
)
from stages.claims.rules import FAILS, HOLDS, IN_DIRECTION, INCONCLUSIVE, PASSED, Line, tied

if TYPE_CHECKING:
    from stages.claims.measure import Measured
    from stages.claims.verdict import LeftOut, Tested
    from stages.core.stats import Interval

KEYS = ("backbone", "dataset", "variant", "baseline", "condition")
_AGGREGATES = {"mean": "mean", "median": "median", "gmean": "geometric mean"}
_COMPARISONS = {
    "value": "{a}",
    "difference": "{a} minus that of {b}",
    "ratio": "{a} divided by that of {b}",
    "speedup": "{b} divided by that of {arm}",
    "share": "{a} in percent of that of {b}",
    "saving": "how much less {a} is than that of {b}, in percent",
}
_ITEMS = {
    "shared": "paired by seed and test item",
    "repeats": "paired by round of measurement",
    "counted": "counted, not sampled",
}
_MUST_BE = {"at_least": "at least", "at_most": "at most", "equal": "equal to"}


def unit(kind: str, metric_unit: str) -> str:
    return UNITS.get(kind, metric_unit)


def told_apart(claim: Claim, cell: Cell) -> dict[str, str]:
    """The keys that the cells of this claim set themselves, with this cell's values."""
    there = {key for c in claim.places() for key in KEYS if getattr(c, key) is not None}
    return {key: str(getattr(claim.at(cell), key) or "") for key in KEYS if key in there}


def label(claim: Claim, cell: Cell) -> str:
    """What tells this cell from the others, in words."""
    told = told_apart(claim, cell)
    if told.get("baseline"):
        told["baseline"] = f"against {told['baseline']}"
    return ", ".join(value for value in told.values() if value)


def measured(claim: Claim) -> str:
    """How the quantity is made from the scores."""
    m = claim.measure
    varied = told_apart(claim, claim.places()[0])
    name = f"{_AGGREGATES[m.aggregate]} {m.metric} of "
    arm = "the arm" if "variant" in varied else m.variant
    base = "the baseline" if "baseline" in varied else m.baseline
    aims = {"a": name + arm, "arm": arm, "b": base}
    if m.compare == "speedup":
        aims["b"] = f"{name}{base}"
    where = [
        f"{key} {value}"
        for key in ("backbone", "dataset", "condition")
        if (value := getattr(m, key)) and key not in varied
    ]
    made = _COMPARISONS[m.compare].format(**aims)
    text = "; ".join([made, *where, _ITEMS[m.items]])
    return text[0].upper() + text[1:]


def rule(claim: Claim) -> str:
    """The rule with its tolerance or margin and their reasons."""
    r, shown = claim.rule, claim.published.unit
    if isinstance(r, NonInferior):
        return f"worse by no more than {amount(r.margin, shown)} ({r.reason})"
    if isinstance(r, Equivalent):
        return f"alike within {amount(r.margin, shown)} to either side ({r.reason})"
    if isinstance(r, Check):
        text = f"we set it: {_MUST_BE[r.must_be]} {amount(r.bound, shown)}"
    elif isinstance(r, AtLeast | AtMost):
        text = f"{'at least' if isinstance(r, AtLeast) else 'at most'} {amount(r.bound, shown)}"
    elif isinstance(r, Exact):
        text = "the published number"
    else:
        text = "better" if r.than is None else f"better than {amount(r.than, shown)}"
        if claim.tolerance:
            text += ", and by the published size"
    if claim.tolerance:
        t, of = claim.tolerance, "number"
        if isinstance(r, BetterThan):
            of = "published effect"
        points = "points" if shown == "%" else shown.replace("×", "")
        width = f"{number(100 * (t.relative or 0))} % of the {of}"
        if t.absolute is not None:
            width = f"{number(t.absolute)} {points}".strip()
        text += f"; tolerance {width} ({t.reason})"
    return text


def better(claim: Claim, direction: str, got: Interval, published: float | None) -> bool:
    """Whether the whole interval lies on the better side of the published number, or, where arms
    should be alike, of no difference."""
    rising = claim.measure.compare in ("speedup", "saving") or direction == "higher"
    middle = 0.0 if isinstance(claim.rule, Equivalent) else published
    if middle is None or not (rising or direction == "lower"):
        return False
    return got.low > middle if rising else got.high < middle


def reason(
    claim: Claim, found: Measured, at: Line | None, verdict: str, *, better: bool = False
) -> str:
    """Why one cell has its verdict.

    Args:
        better: what `better` says; told where a rule has two sides.
    """
    got, shown = found.interval, claim.published.unit
    if verdict.startswith("check"):
        what = "every seed is" if verdict == PASSED else "not every seed is"
        return f"{what} as it was set"
    if at is None:
        where = {HOLDS: "within", FAILS: "outside", INCONCLUSIVE: "partly outside"}[verdict]
        if isinstance(claim.rule, Equivalent):
            text = f"the interval lies {where} {amount(claim.rule.margin, shown)} to either side"
            text += ", all of it on the better side" if verdict == FAILS and better else ""
            return text + _unseen(found)
        text = f"the interval lies {where} the tolerance around the published number"
        return text + (", and is better than it" if verdict == FAILS and better else "")
    if found.bounded == "open":
        return "censored: both arms are only known to exceed the cap"
    if math.isnan(got.value):
        return "the baseline is not above zero, so a ratio to it has no meaning"
    bound = f"{amount(at.bound, shown)}"
    if verdict == HOLDS:
        text = f"the interval lies wholly on the claimed side of {bound}"
        if at.target is not None:
            text += f", and the value reaches {amount(at.target, shown)}"
    elif verdict == IN_DIRECTION:
        assert at.target is not None
        text = f"the interval lies wholly on the claimed side of {bound}, but the value "
        text += (
            f"is only known to be {found.bounded} {amount(got.value, shown)}: whether it "
            if found.bounded
            else "does not "
        )
        text += f"reach{'es' if found.bounded else ''} {amount(at.target, shown)}"
        text += " lies beyond the cap" if found.bounded else ""
    elif verdict == FAILS:
        text = f"the interval lies wholly on the other side of {bound}"
    elif tied(at, got):
        text = "both arms" if claim.measure.compare != "value" else "the arm and the bound"
        return f"{text} score alike on every item: this measure cannot tell them apart here"
    else:
        text = _open(found, at, shown)
    if found.bounded and verdict != IN_DIRECTION:
        text += f"; censored: the value is {found.bounded} {amount(got.value, shown)}"
    return text + _unseen(found)


def _unseen(found: Measured) -> str:
    """That no item tells two arms apart, where what is right or wrong is counted."""
    exact = found.least.exact
    if exact is None or found.least.items_sd > 0 or found.least.seeds.any():
        return ""
    return (
        f"; no item tells the arms apart, and the interval is the exact bound of {found.items} "
        "items"
    )


def _open(found: Measured, at: Line, shown: str) -> str:
    """Why a cell is inconclusive, and what would settle it."""
    got = found.interval
    if found.count * found.items == 1:
        return "a single score has no interval"
    if math.isinf(got.low) and math.isinf(got.high):
        return "nothing bounds the interval: in some draws the baseline is not above zero"
    text = f"the interval straddles {amount(at.bound, shown)}"
    if found.bounded:
        return text
    if found.count < 2:
        return f"{text}; with one seed it cannot be said how many would settle it"
    what = "it"
    if at.target is not None and not at.reaches(got.high if at.side > 0 else got.low):
        text += f" and ends short of {amount(at.target, shown)}"
        what = "its direction"
    seeds = found.seeds_to_settle(at.bound)
    if seeds is None:
        return f"{text}; a difference this small is not settled by more seeds alone"
    return f"{text}; about {max(seeds, found.count + 1)} seeds would settle {what}"


def not_here(needs: Needs) -> str:
    where = "no profile" if needs.profile == "none" else f"profile: {needs.profile}"
    return f"{where}; {needs.reason}"


def overall(
    combine: str,
    head: str,
    why: str,
    verdict: str,
    tested: list[Tested],
    left_out: list[LeftOut],
) -> str:
    """Why the claim has its verdict: the cell that decides, the tally, the cells left out."""
    if not head and not left_out:
        return why
    which = {"each": "the weakest cell", "any": "the strongest cell"}.get(combine, "cell")
    text = f"{which} ({head}): {why}" if head else why
    if len(tested) > 1 and combine != "mean":
        tally = [c.verdict for c in tested]
        counts = [f"{tally.count(v)} {v}" for v in dict.fromkeys(tally)]
        text += f". Cells tested: {', '.join(counts)}"
    if left_out:
        profiles = sorted({c.needs.profile for c in left_out})
        count = f"{len(left_out)} of {len(left_out) + len(tested)} cells"
        text += f". Not testable here: {count} ({', '.join(profiles)})"
        if combine == "most" and verdict == INCONCLUSIVE:
            text += "; these would decide"
    return text


def amount(x: float, unit: str) -> str:
    return f"×{number(x)}" if unit == "×" else f"{number(x)} {unit}"


def number(x: float) -> str:
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:,.0f}"
