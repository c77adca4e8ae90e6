"""From scores per test window to what they say: means, savings, curves by lead, bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pipelines.sdkd.names import label, net
from stages.core.stats import Interval, interval
from stages.evaluate import tables
from stages.evaluate.fields import Score, band_name

if TYPE_CHECKING:
    from pandas import DataFrame

TEACHER, PERSISTENCE, NONE, METHOD = "teacher", "persistence", "none", "sdkd"
HEADLINE = "mse"
BY_LEAD = ("mse", "mae", "relative_l2", "ssim")
HIGHER = ("ssim", "psnr")


def title_of(variant: str) -> str:
    """What a variant is called, the teachers and persistence among them."""
    other = variant.removeprefix(f"{TEACHER}_")
    return f"teacher {net(other)}" if other != variant else label(variant)


def unit_of(metric: str, unit: str) -> str:
    """The unit of a metric, given that of the fields."""
    if metric.startswith("mse"):
        return f"({unit})²"
    return {"mae": unit, "psnr": "dB"}.get(metric, "1")


def table_of(
    scores: Mapping[str, Score], items: Sequence[str], unit: str, **key: str | int
) -> DataFrame:
    """The rows of one arm: each metric over all leads (condition "") and by lead ("lead=1" …).

    Args:
        scores: by metric.
        items: names of the test windows.
        unit: of the fields.
        key: paper, backbone, dataset, variant and seed.
    """
    import numpy as np
    from pandas import DataFrame

    leads = next(iter(scores.values())).frames.shape[1]
    conditions = ["", *(f"lead={lead + 1}" for lead in range(leads))]
    names = list(scores)
    values = np.stack(
        [
            np.concatenate([score.whole[:, None].numpy(), score.frames.numpy()], 1)
            for score in scores.values()
        ]
    )  # (metrics, items, conditions)
    shape = values.shape
    table = DataFrame({
        "metric": np.repeat(names, shape[1] * shape[2]),
        "item": np.tile(np.repeat(list(items), shape[2]), shape[0]),
        "condition": np.tile(conditions, shape[0] * shape[1]),
        "value": values.ravel(),
        "unit": np.repeat([unit_of(n, unit) for n in names], shape[1] * shape[2]),
        "direction": np.repeat(
            ["higher" if n in HIGHER else "lower" for n in names], shape[1] * shape[2]
        ),
    })  # fmt: skip
    return table.assign(**key, censored=False)


def metrics(table: DataFrame) -> dict[str, Any]:
    """The summary for `dvc metrics`: per student and variant the means over windows and seeds.

    `saving_mse` and `saving_mae` are percent saved against the student without distillation.
    """
    whole = table[table["condition"] == ""]
    means = whole.groupby(["backbone", "variant", "metric"], sort=True)["value"].mean()
    found: dict[str, Any] = {}
    for (student, variant, metric), value in means.items():
        place = found.setdefault(student, {}).setdefault(variant, {})
        place[metric] = float(f"{value:.6g}")
        base = means.get((student, NONE, metric))
        if metric in ("mse", "mae") and base is not None and variant != NONE:
            place[f"saving_{metric}"] = round(100 * (1 - value / base), 3)
    return found


def curves(table: DataFrame) -> dict[tuple[str, str], DataFrame]:
    """Means over windows and seeds by lead, by (student, variant): lead and `BY_LEAD`."""
    shown = table[table["metric"].isin(BY_LEAD) & table["condition"].str.startswith("lead=")]
    shown = shown.assign(lead=shown["condition"].str.removeprefix("lead=").astype("int64"))
    made = {}
    for (student, variant), rows in shown.groupby(["backbone", "variant"], sort=True):
        wide = rows.pivot_table(index="lead", columns="metric", values="value", aggfunc="mean")
        made[str(student), str(variant)] = wide[list(BY_LEAD)].reset_index()
    return made


def means(table: DataFrame, student: str, variants: Sequence[str]) -> dict[str, Interval]:
    """Each variant's mean MSE over all leads with its 95 % interval."""
    own = tables.select(table, backbone=student, metric=HEADLINE, condition="")
    there = set(own["variant"])
    return {v: tables.mean(own, variant=v) for v in variants if v in there}


def ratios(
    table: DataFrame, student: str, variants: Sequence[str], bands: Sequence[str]
) -> dict[str, dict[str, Interval]]:
    """Each variant's error in each band as a ratio to the undistilled student's, with intervals.

    Args:
        bands: metrics, such as "mse_low".

    Returns:
        variant -> band -> ratio; empty where there is no undistilled student.
    """
    own = tables.select(table, backbone=student, condition="")
    there = set(own["variant"])
    if NONE not in there:
        return {}
    base = {band: tables.block(own, variant=NONE, metric=band) for band in bands}
    made: dict[str, dict[str, Interval]] = {}
    for variant in [v for v in variants if v in there and v not in (NONE, PERSISTENCE)]:
        made[variant] = {}
        for band in bands:
            arm = tables.block(own, variant=variant, metric=band)
            b = base[band]
            if len(arm) == 1 and len(b) > 1:  # one teacher against students of several seeds
                arm = arm.repeat(len(b), 0)
            made[variant][band] = interval(arm, b, "mean", "ratio")
    return made


def band_names(edges: Sequence[float]) -> list[str]:
    """The metrics of the bands between these wavenumbers."""
    return [band_name(lo, hi) for lo, hi in pairwise(edges)]
