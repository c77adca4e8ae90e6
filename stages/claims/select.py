"""From the long table of scores to the arrays that a claim compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.claims.model import Measure
from stages.core.errors import UserError
from stages.core.stats import Array

if TYPE_CHECKING:
    import pandas

Scores = Mapping[str, "pandas.DataFrame"]
"""Tables of scores by the name of the stage that wrote them."""


class Missing(Exception):
    """What a claim names is not in the scores: which key, its value, and what is there."""

    def __init__(self, key: str, wanted: str, there: list[str], within: str) -> None:
        self.key = key
        shown = ", ".join(repr(x) for x in there) or "nothing"
        super().__init__(f"{key} '{wanted}' is not {within}; there: {shown}")


class Samples(NamedTuple):
    """Scores of one arm: seeds by items, and which of them are only known to exceed a cap."""

    seeds: list[int]
    items: list[str]
    values: Array
    censored: NDArray[np.bool_]
    unit: str
    direction: str


@dataclass(frozen=True)
class Pair:
    """An arm and its baseline, in arrays (S, I) each."""

    seeds: int
    items: int
    a: Array
    a_censored: NDArray[np.bool_]
    b: Array | None
    b_censored: NDArray[np.bool_]
    unit: str
    direction: str


def chosen(measure: Measure, scores: Scores) -> Measure:
    """The quantity with one data set: of several, the first that the scores have."""
    if not isinstance(measure.dataset, list):
        return measure
    there = set(scores[measure.table]["dataset"]) if measure.table in scores else set()
    first = next((name for name in measure.dataset if name in there), measure.dataset[0])
    return measure.model_copy(update={"dataset": first})


def pair(measure: Measure, scores: Scores) -> Pair:
    """The paired scores of one cell.

    An arm or baseline with a single seed (one teacher) is paired with every seed of the other;
    otherwise the seeds that both have are used.

    Raises:
        Missing: a table, metric, variant, backbone, dataset or condition is not there.
        UserError: the scores cannot be paired, or the claim leaves open which rows it means.
    """
    arm = samples(measure, measure.variant, scores)
    if measure.baseline is None:
        none = np.zeros_like(arm.censored)
        shape = len(arm.seeds), len(arm.items)
        return Pair(*shape, arm.values, arm.censored, None, none, arm.unit, arm.direction)
    base = samples(measure, measure.baseline, scores)
    if arm.items != base.items:
        raise UserError(
            f"'{measure.variant}' ({len(arm.items)} items) and '{measure.baseline}' "
            f"({len(base.items)}) were not scored on the same items"
        )
    if len(arm.seeds) == 1 or len(base.seeds) == 1:
        common = max(arm.seeds, base.seeds, key=len)
    else:
        common = sorted({*arm.seeds} & {*base.seeds})
    if not common:
        raise UserError(
            f"'{measure.variant}' has the seeds {arm.seeds} and '{measure.baseline}' "
            f"{base.seeds}: no pair among them"
        )
    rows, base_rows = (
        [0] * len(common) if len(of.seeds) == 1 else [of.seeds.index(seed) for seed in common]
        for of in (arm, base)
    )
    return Pair(
        len(common),
        len(arm.items),
        arm.values[rows],
        arm.censored[rows],
        base.values[base_rows],
        base.censored[base_rows],
        arm.unit,
        arm.direction,
    )


def samples(measure: Measure, variant: str, scores: Scores) -> Samples:
    """The scores of one variant as arrays, seeds and items sorted.

    Rows with an empty condition hold under every condition: the full-size network is not
    fine-tuned, a count does not depend on threads.

    Raises:
        Missing, UserError: see `pair`.
    """
    if measure.table not in scores:
        raise Missing("the table", measure.table, sorted(scores), "among the results")
    rows = scores[measure.table]
    within = f"in the scores of '{measure.table}'"
    wishes = {
        "metric": measure.metric,
        "variant": variant,
        "backbone": measure.backbone,
        "dataset": measure.dataset,
        "condition": measure.condition,
    }
    for key, wanted in wishes.items():
        if wanted is None:
            continue
        found = rows[rows[key] == wanted]
        if found.empty and key == "condition":
            found = rows[rows[key] == ""]
        if found.empty:
            raise Missing(key, str(wanted), sorted(rows[key].unique()), within)
        rows = found
        within += f"{' with' if key == 'metric' else ','} {key} '{wanted}'"
    for key in ("backbone", "dataset", "condition", "unit", "direction"):
        there = sorted(rows[key].unique())
        if len(there) > 1:
            raise UserError(f"name one {key} of {', '.join(map(repr, there))} ({within})")
    table = rows.pivot(index="seed", columns="item", values="value").sort_index(axis=1)
    if bool(table.isna().to_numpy().any()):
        raise UserError(f"some seeds lack some test items {within}")
    cut = rows.pivot(index="seed", columns="item", values="censored").sort_index(axis=1)
    return Samples(
        [int(seed) for seed in table.index],
        [str(item) for item in table.columns],
        table.to_numpy(dtype=np.float64),
        cut.to_numpy(dtype=np.bool_),
        str(rows["unit"].iloc[0]),
        str(rows["direction"].iloc[0]),
    )
