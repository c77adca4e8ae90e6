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
from stages.core.files import read_json
from stages.core.pictures import add_exhibit
from stages.core.stats import Interval, interval
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from pandas import DataFrame

METHOD, CONTROL, DENSE, PERSISTENCE = "merlin", "mixed_l1", "dense", "persistence"
"""Merlin; the same views and steps without a teacher; the teacher; the last value goes on."""
HEADLINE = "mae"
SAME, OTHER, GAP = "similarity", "similarity_other", "similarity_gap"
"""Likeness of a hidden window's representation to its own complete one, to others', and the first
less the second."""
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

    Columns: hidden (percent of points), mae, low, high (95 % interval); and, where they are known,
    `similarity` of the representation to that of the complete window (1 for that window itself) and
    `similarity_other` to those of other complete windows.
    """
    from pandas import DataFrame

    keys = ["dataset", "backbone", "variant", "condition"]
    alike, others = (
        table[table["metric"] == metric].groupby(keys)["value"].mean().to_dict()
        for metric in (SAME, OTHER)
    )
    made: dict[Place, dict[str, DataFrame]] = {}
    for place, own in scores.items():
        rows: dict[str, list[dict[str, float]]] = {}
        known = [(p, v, c) for v, c in own if (p := hidden_percent(c)) is not None]
        for percent, variant, condition in sorted(known):
            x = interval(own[variant, condition], None, "mean", "value")
            row = {"hidden": percent, "mae": x.value, "low": x.low, "high": x.high}
            cell = (*place, variant, condition)
            if cell in others:
                row[SAME] = float(alike.get(cell, 1.0))
                row[OTHER] = float(others[cell])
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


def write_steps(
    out: Path,
    table: DataFrame,
    sets: Mapping[str, Set],
    variants: Sequence[str],
    horizons: Sequence[int],
    views: Sequence[str],
) -> None:
    """MAE at some steps ahead, on complete windows and as the mean over the trained rates."""
    rows: list[dict[str, str]] = []
    scores = table[table["metric"] == HEADLINE]
    masks = {"complete": [COMPLETE]} | ({"trained rates": list(views)} if views else {})
    for (dataset, backbone), own in scores.groupby(["dataset", "backbone"], sort=True):
        there = set(own["variant"])
        for variant in (v for v in variants if v in there):
            mine = own[own["variant"] == variant].groupby("condition")["value"].mean()
            cells = {
                f"{name}: step {step}": f"{np.mean([mine[f'{m}|h={step}'] for m in kept]):.4f}"
                for name, kept in masks.items()
                for step in horizons
            }
            place = {"data set": sets[str(dataset)].title, "net": NETS.get(backbone, backbone)}
            rows.append({**place, "arm": label(variant), **cells})
    if rows and horizons:
        write_csv(out / "steps-ahead.csv", rows)
        add_exhibit(
            out,
            kind="table",
            name="steps-ahead",
            file="steps-ahead.csv",
            title="MAE by steps ahead",
            caption="Mean over seeds, test blocks and, for the trained rates, masks; in each set's "
            "unit. RMSE and MAPE by step are among the scores.",
        )


def write_likeness(
    out: Path, nets: Sequence[tuple[str, str, str, Path]], sets: Mapping[str, Set]
) -> None:
    """A table of how alike training left the views of a window, beside those of other windows.

    Args:
        nets: variant, data set, backbone and folder of each; those whose training kept no such
            record (teachers, arms with several models) are left out.
    """
    found: dict[tuple[str, str, str], list[Mapping[str, float]]] = {}
    for variant, dataset, backbone, folder in nets:
        models = read_json(folder / "training.json").get("models", {})
        for about in models.values():
            if about.get("likeness"):
                found.setdefault((dataset, backbone, variant), []).append(about["likeness"])
    if not found:
        return
    names = {"hidden": "representation", "code": "code"}
    rows = [
        {
            "data set": sets[dataset].title,
            "net": NETS.get(backbone, backbone),
            "arm": label(variant),
            **{
                f"{said}, {which}": f"{np.mean([x[f'{name}_{which}'] for x in seeds]):.3f}"
                if f"{name}_{which}" in seeds[0]
                else ""
                for name, said in names.items()
                for which in ("same", "other")
            },
        }
        for (dataset, backbone, variant), seeds in found.items()
    ]
    write_csv(out / "likeness.csv", rows)
    add_exhibit(
        out,
        kind="table",
        name="likeness",
        file="likeness.csv",
        title="How alike training left the views of a window",
        caption="Mean cosines on validation windows over pairs of the rates of training, of the "
        "same window and of different ones: of whole hidden representations, and of the codes that "
        "the contrast compares. Mean over seeds.",
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
