"""A verdict for each claim of a paper, from its claims.yaml and its tables of scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from stages.claims import rules, wording
from stages.claims.measure import Measured, average, measure
from stages.claims.model import (
    Cell,
    Check,
    Claim,
    Equivalent,
    Exact,
    Needs,
    Sheet,
    is_timing,
)
from stages.claims.select import Missing, Pair, Scores, chosen, pair
from stages.core.errors import UserError
from stages.core.stats import NEUTRAL, Interval

LADDER = ("smoke", "desk", "lab")
"""Profiles on the same data, each with all of the one before; `paper` has data of its own."""


@dataclass(frozen=True)
class Tested:
    """One cell with its numbers and its verdict; `line` is None where a rule has two sides, and for
    checks."""

    cell: Cell
    pair: Pair
    measured: Measured
    line: rules.Line | None
    verdict: str
    reason: str

    @property
    def rank(self) -> tuple[int, float]:
        """Best first: by verdict, then by how far it lies on the claimed side."""
        value = self.measured.interval.value
        margin = self.line.margin(value) if self.line else 0.0
        return -rules.LADDER[self.verdict], -margin if math.isfinite(margin) else math.inf


@dataclass(frozen=True)
class LeftOut:
    """A cell whose data this profile does not have."""

    cell: Cell
    needs: Needs


def verdicts(sheet: Sheet, scores: Scores, profile: str) -> list[dict[str, Any]]:
    """Judge every claim of a paper.

    Args:
        sheet: the paper's claims.
        scores: tables of scores by stage ("evaluate", "bench").
        profile: the profile that made them.

    Returns:
        One entry per claim, in the file's order, ready for JSON.

    Raises:
        UserError: a claim names something that the scores of this profile should have and have
            not; the message names claim, key and what is there.
    """
    return [_verdict(sheet.paper, claim, scores, profile) for claim in sheet.claims]


def _verdict(paper: str, claim: Claim, scores: Scores, profile: str) -> dict[str, Any]:
    claim = claim.model_copy(update={"measure": chosen(claim.measure, scores)})
    cells = [_cell(claim, cell, scores, profile) for cell in claim.places()]
    tested = sorted((c for c in cells if isinstance(c, Tested)), key=lambda c: c.rank)
    left_out = [c for c in cells if isinstance(c, LeftOut)]
    combine = claim.cells.combine if claim.cells else "each"
    entry: dict[str, Any] = {
        "paper": paper,
        "id": claim.id,
        "claim": claim.claim,
        "where": claim.where,
        "measured": wording.measured(claim),
        "rule": wording.rule(claim),
        "differs": claim.differs,
        "given": "one teacher" if claim.given_one_teacher else "",
        "combine": combine,
        "unit": claim.published.unit,
        "neutral": NEUTRAL.get(claim.measure.compare),
        "published_note": claim.published.note,
        "profile": profile,
        "timing": is_timing(claim.measure.metric),
        "cells": [_row(claim, cell) for cell in cells],
        "needs": left_out[0].needs.profile if left_out else "",
    }
    if not tested:
        reason = wording.not_here(left_out[0].needs)
        return entry | {
            "verdict": rules.NOT_HERE,
            "published": claim.published.value,
            "reason": reason,
            "headline": "",
            "seeds": 0,
            **_numbers(None),
        }
    if combine == "mean":
        head = _mean(claim, tested)
        verdict = head.verdict
        published = claim.published.value
    else:
        verdict, rank = rules.combine(combine, [c.verdict for c in tested], len(left_out))
        head = tested[rank]
        published = claim.printed(head.cell)
    label = "" if combine == "mean" or len(cells) == 1 else wording.label(claim, head.cell)
    return entry | {
        "verdict": verdict,
        "published": published,
        "reason": wording.overall(combine, label, head.reason, verdict, tested, left_out),
        "headline": label,
        "seeds": min(c.pair.seeds for c in tested),
        **_numbers(head.measured),
    }


def _cell(claim: Claim, cell: Cell, scores: Scores, profile: str) -> Tested | LeftOut:
    quantity = claim.at(cell)
    name = wording.label(claim, cell)
    at = f"claims.yaml, claim '{claim.id}'{f' ({name})' if name else ''}"
    try:
        found = pair(quantity, scores)
        measured = measure(found, quantity.aggregate, quantity.compare, quantity.items)
        return _judge(claim, cell, found, measured)
    except Missing as missing:
        needs = cell.needs or claim.needs
        if missing.key == "dataset":
            # Somebody's own data, given in place of the profile's.
            return LeftOut(
                cell, Needs(profile=needs.profile if needs else "desk", reason=str(missing))
            )
        if _should_be_there(needs, profile):
            raise UserError(
                f"{at}: {missing}; mend the name, or say under 'needs' which profile has it"
            ) from None
        if needs is None:
            reason = f"what it compares is not in the scores of profile {profile}"
            needs = Needs(profile="desk", reason=reason)
        return LeftOut(cell, needs)
    except UserError as error:
        raise UserError(f"{at}: {error}") from None


def _should_be_there(needs: Needs | None, profile: str) -> bool:
    """Whether a profile must have an arm; those of `paper` depend on the folders it is given."""
    wanted = needs.profile if needs else "desk"
    if profile not in LADDER or wanted not in LADDER:
        return False
    return LADDER.index(profile) >= LADDER.index(wanted)


def _judge(claim: Claim, cell: Cell, found: Pair, measured: Measured) -> Tested:
    if claim.measure.compare in ("value", "difference") and found.unit != claim.published.unit:
        raise UserError(f"the scores are in {found.unit}, published in {claim.published.unit}")
    published, rule, got = claim.printed(cell), claim.rule, measured.interval
    at = None
    if isinstance(rule, Check):
        verdict = rules.judge_check(rule, measured.least.seeds, claim.tolerance)
    elif isinstance(rule, Exact):
        assert published is not None
        verdict = rules.judge_exact(got, published, claim.tolerance)
    elif isinstance(rule, Equivalent):
        verdict = rules.judge_equivalent(rule, got)
    else:
        at = rules.line(claim, published, found.direction)
        verdict = rules.judge(at, got, counted=claim.measure.items == "counted")
    better = wording.better(claim, found.direction, got, published)
    reason = wording.reason(claim, measured, at, verdict, better=better)
    return Tested(cell, found, measured, at, verdict, reason)


def _mean(claim: Claim, tested: list[Tested]) -> Tested:
    try:
        whole = average([c.measured for c in tested])
    except ValueError as error:
        raise UserError(f"claims.yaml, claim '{claim.id}': {error}") from None
    return _judge(claim, Cell(published=claim.published.value), tested[0].pair, whole)


def _row(claim: Claim, cell: Tested | LeftOut) -> dict[str, Any]:
    """The entry of one cell: what tells it from the others, its verdict and its numbers, flat."""
    row: dict[str, Any] = wording.told_apart(claim, cell.cell)
    row["published"] = claim.printed(cell.cell)
    if isinstance(cell, LeftOut):
        settle = {"seeds": 0, "items": 0, "seeds_to_settle": None}
        more = {"needs": cell.needs.profile, "reason": wording.not_here(cell.needs)}
        return row | {"verdict": rules.NOT_HERE, **_numbers(None), **settle, **more}
    row |= {"verdict": cell.verdict, **_numbers(cell.measured)}
    quantity = claim.at(cell.cell)
    for kind in quantity.also:
        other = _numbers(measure(cell.pair, quantity.aggregate, kind, quantity.items))
        row |= {kind: other["value"], f"{kind}_low": other["low"], f"{kind}_high": other["high"]}
        row[f"{kind}_unit"] = wording.unit(kind, cell.pair.unit)
    row |= {"seeds": cell.pair.seeds, "items": cell.pair.items, "seeds_to_settle": None}
    if cell.verdict == rules.INCONCLUSIVE and cell.line:
        row["seeds_to_settle"] = cell.measured.seeds_to_settle(cell.line.bound)
    return row | {"needs": "", "reason": cell.reason}


def _numbers(measured: Measured | None) -> dict[str, Any]:
    """Value and interval for JSON; null where there is none or nothing bounds it."""
    if measured is None:
        return {"value": None, "low": None, "high": None, "bounded": ""}
    got: Interval = measured.interval
    return {
        "value": _number(got.value),
        "low": _number(got.low),
        "high": _number(got.high),
        "bounded": measured.bounded,
    }


def _number(x: float) -> float | None:
    return float(f"{x:.6g}") if math.isfinite(x) else None
