"""From scores per block of windows to what they say: curves over rates, tables, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.merlin.data import COMPLETE
from pipelines.merlin.masks import rate_of
from pipelines.merlin.names import NETS, label
from stages.core.pictures import add_exhibit
from stages.core.stats import Interval, interval
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from pandas import DataFrame

METHOD, CONTROL, DENSE, PERSISTENCE = "merlin", "mixed_l1", "dense", "persistence"
"""Merlin; the same views and steps without a teacher; the teacher; the last value goes on."""
HEADLINE = "mae"
Place = tuple[str, str]
Blocks = Mapping[Place, Mapping[tuple[str, str], NDArray[np.float64]]]
Curves = Mapping[Place, Mapping[str, "DataFrame"]]


class Set(Protocol):
    """What is said of a data set beside its scores."""

    @property
    def title(self) -> str: ...
    @property
    def unit(self) -> str: ...


def hidden_percent(condition: str) -> int | None:
    """Percent of points that a mask hides at random; None for masks of another kind."""
    if condition == COMPLETE:
        return 0
    rate = rate_of(condition) if condition.startswith("mcar-") else None
    return None if rate is None else round(100 * rate)


def blocks(table: DataFrame) -> dict[Place, dict[tuple[str, str], NDArray[np.float64]]]:
    """MAE, (seeds, items), by (data set, backbone) and there by (variant, mask).

    Raises:
        ValueError: a seed lacks an item that another has.
    """
    scores = table[
        (table["metric"] == HEADLINE) & ~table["condition"].str.contains("|", regex=False)
    ].sort_values(["seed", "item"], kind="stable")
    found: dict[Place, dict[tuple[str, str], NDArray[np.float64]]] = {}
    keys = ["dataset", "backbone", "variant", "condition"]
    for key, rows in scores.groupby(keys, sort=True):
        dataset, backbone, variant, condition = map(str, key)
        seeds = rows["seed"].nunique()
        if len(rows) != seeds * rows["item"].nunique():
            raise ValueError(f"the scores of {key} are incomplete")
        values = rows["value"].to_numpy(dtype=np.float64).reshape(seeds, -1)
        found.setdefault((dataset, backbone), {})[variant, condition] = values
    return found


def curves(table: DataFrame, scores: Blocks) -> dict[Place, dict[str, DataFrame]]:
    """MAE over the missing rate, by (data set, backbone) and there by variant.

    Columns: hidden (percent of points), mae, low, high (95 % interval); and `similarity` of the
    representation to that of the complete window, where it is known (1 for that window itself).
    """
    from pandas import DataFrame

    keys = ["dataset", "backbone", "variant", "condition"]
    alike = table[table["metric"] == "similarity"].groupby(keys)["value"].mean().to_dict()
    made: dict[Place, dict[str, DataFrame]] = {}
    for place, own in scores.items():
        rows: dict[str, list[dict[str, float]]] = {}
        known = [(p, v, c) for v, c in own if (p := hidden_percent(c)) is not None]
        for percent, variant, condition in sorted(known):
            x = interval(own[variant, condition], None, "mean", "value")
            row = {"hidden": percent, "mae": x.value, "low": x.low, "high": x.high}
            if any((*place, variant, c) in alike for _, _, c in known):
                row["similarity"] = float(alike.get((*place, variant, condition), 1.0))
            rows.setdefault(variant, []).append(row)
        made[place] = {variant: DataFrame(found) for variant, found in rows.items()}
    return made


def against(own: NDArray[np.float64], other: NDArray[np.float64]) -> Interval:
    """How much more error an arm makes than a baseline, in percent, with its 95 % interval."""
    found = interval(own, other, "mean", "ratio")
    return Interval(*(100 * (x - 1) for x in (found.value, found.low, found.high)))


def write_tables(
    out: Path,
    scores: Blocks,
    sets: Mapping[str, Set],
    variants: Sequence[str],
    conditions: Sequence[str],
) -> None:
    """Mean MAE of every arm under every mask: a table for each data set and backbone."""
    for (dataset, backbone), own in scores.items():
        rows: list[dict[str, str]] = [
            {"arm": label(v), **{c: f"{own[v, c].mean():.4f}" for c in conditions}}
            for v in variants
            if (v, COMPLETE) in own
        ]
        name = f"errors-{dataset}-{backbone}"
        write_csv(out / f"{name}.csv", rows)
        add_exhibit(
            out,
            kind="table",
            name=name,
            file=f"{name}.csv",
            title=f"{sets[dataset].title}, {NETS.get(backbone, backbone)}: MAE",
            caption=f"Mean over seeds and test blocks, in {sets[dataset].unit}.",
        )


def metrics(table: DataFrame) -> dict[str, Any]:
    """The summary for `dvc metrics`: data set, backbone, variant, metric, mask; seeds averaged."""
    found: dict[str, Any] = {}
    shown = table[~table["condition"].str.contains("|", regex=False)]
    keys = ["dataset", "backbone", "variant", "metric", "condition"]
    for (*place, last), rows in shown.groupby(keys, sort=True):
        here = found
        for name in place:
            here = here.setdefault(str(name), {})
        here[str(last)] = round(float(rows["value"].mean()), 5)
    return found
