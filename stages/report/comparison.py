"""Comparison of the arms, with intervals, from the long table of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.report import numbers
from stages.report.tables import Cell, Table, natural, spanned

if TYPE_CHECKING:
    import pandas

RESAMPLES = 1_000  # draws per cell; verdicts take more, a table of hundreds of cells need not
_ORDER = {"": 0, "before": 1, "final": 3}  # conditions by name: others stand between, sorted


@dataclass(frozen=True)
class Group:
    """The tables of one metric, by family of conditions ("": plain names); a data set a table."""

    title: str
    families: dict[str, list[Table]]


def comparisons(scores: pandas.DataFrame, repeats: bool = False) -> list[Group]:
    """Compare the arms, one group of tables per metric, the metric with most scores first.

    A table holds one data set, an arm a row, a condition a column. Conditions of one family, such
    as "ft=50" and "ft=100", have tables of their own, in which arms without condition stand too.

    Args:
        scores: the long table of scores, see stages/core/results.py.
        repeats: the items are repeated measurements (median) and not test items (mean).
    """
    made: list[tuple[tuple[int, str], Group]] = []
    for metric, part in scores.groupby("metric", sort=True):
        family = part["condition"].map(lambda c: c.partition("=")[0] if "=" in c else "")
        kinds = sorted(set(family))
        if len(kinds) > 1 and set(part["condition"][family == ""]) == {""}:
            kinds.remove("")
        plain = part["condition"] == ""
        found = {
            kind: [
                _comparison(str(dataset), rows, repeats)
                for dataset, rows in part[(family == kind) | plain].groupby("dataset", sort=True)
            ]
            for kind in kinds
        }
        unit, direction = str(part["unit"].iloc[0]), str(part["direction"].iloc[0])
        title = f"{metric} ({unit})" if unit else str(metric)
        title += {"higher": ", higher is better", "lower": ", lower is better"}.get(direction, "")
        made.append(((-len(part), title), Group(title, found)))
    return [group for _, group in sorted(made, key=lambda entry: entry[0])]


@dataclass(frozen=True)
class Estimate:
    """Mean or median of one arm under one condition; `beyond` counts scores cut off by a cap."""

    value: float
    low: float | None
    high: float | None
    beyond: int
    count: int


def _comparison(title: str, part: pandas.DataFrame, repeats: bool) -> Table:
    conditions = sorted(set(part["condition"]), key=lambda c: (_ORDER.get(c, 2), natural(c)))
    found = {
        (str(net), str(arm), str(condition)): _estimate(rows, repeats)
        for (net, arm, condition), rows in part.groupby(["backbone", "variant", "condition"])
    }
    arms = {key[:2] for key in found}
    counts = {c: sum((*arm, c) in found for arm in arms) for c in conditions}
    by = max(conditions, key=lambda c: (counts[c], conditions.index(c)))
    sign = {"higher": -1, "lower": 1}.get(str(part["direction"].iloc[0]), 0)

    def rank(arm: tuple[str, str]) -> tuple[Any, ...]:
        """By net, arms without that condition (references) first, then best first."""
        there = found.get((*arm, by))
        return (arm[0], there is not None, sign * there.value if there else 0.0, arm[1])

    ranked = sorted(arms, key=rank)
    wanted = [p for e in found.values() if (p := numbers.decimals(e.low, e.high)) is not None]
    places = sorted(wanted)[len(wanted) // 2] if wanted else None
    rows = [
        [Cell(net), Cell(arm), *(_cell(found.get((net, arm, c)), places) for c in conditions)]
        for net, arm in ranked
    ]
    heads = ["net", "arm", *(c or "as it is" for c in conditions)]
    return Table(title, heads, spanned(rows, 1), heads=2)


def _cell(e: Estimate | None, places: int | None) -> Cell:
    if e is None:
        return Cell(numbers.NONE, numeric=True)
    if e.beyond:
        text = numbers.bounded(numbers.number(e.value, digits=3), "at least")
        return Cell(text, f"{e.beyond} of {e.count} beyond the cap", e.value, numeric=True)
    if e.low is None or e.high is None:
        return Cell(numbers.number(e.value, digits=3), "", e.value, numeric=True)
    return Cell(
        numbers.number(e.value, places),
        numbers.interval(e.low, e.high, places),
        e.value,
        numeric=True,
    )


def _estimate(rows: pandas.DataFrame, repeats: bool) -> Estimate:
    from stages.core import stats

    grid = rows.pivot(index="seed", columns="item", values="value")
    if grid.isna().any(axis=None):
        key = rows[["backbone", "variant", "condition", "metric"]].iloc[0].to_dict()
        raise ValueError(f"not every seed has every test item: {key}")
    scores = grid.to_numpy(dtype="float64")
    how: stats.How = "median" if repeats else "mean"
    value = stats.estimate(scores, None, how, "value")
    beyond = int(rows["censored"].sum())
    if beyond or scores.min() == scores.max():
        return Estimate(value, None, None, beyond, len(rows))
    draws = stats.bootstrap(
        scores, None, how, "value", "repeats" if repeats else "shared", resamples=RESAMPLES
    )
    found = stats.wider(stats.per_seed(scores, None, how, "value"), draws, value, "value")
    return Estimate(value, found.low, found.high, 0, len(rows))
