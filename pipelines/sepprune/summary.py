"""From scores per mixture to what they say: shares recovered, updates to match, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import Logger
from typing import TYPE_CHECKING, Any, Literal

from stages.evaluate import tables
from stages.evaluate.convergence import updates_to_match

if TYPE_CHECKING:
    from pandas import DataFrame

Stage = Literal["before", "one_epoch", "final"]
STAGES: tuple[Stage, ...] = ("before", "one_epoch", "final")
METHOD, DENSE = "sepprune", "dense"
NOT_PRUNED = (DENSE, "dense_more")
HEADLINE = "si_sdri"
PLACE = ["paper", "backbone", "dataset"]


def seed_means(table: DataFrame) -> DataFrame:
    """Mean SI-SDRi per net and condition: paper, backbone, dataset, variant, condition, seed."""
    found = tables.select(table, metric=HEADLINE)
    keys = [*PLACE, "variant", "condition", "seed"]
    means: DataFrame = found.groupby(keys, sort=True)["value"].mean().reset_index()
    return means


def recovery(table: DataFrame, log: Logger) -> list[DataFrame]:
    """What each pruned net has of its teacher's SI-SDRi, per seed: as a share and as a gap.

    `recovery_share` is 100 x net / dense in percent, as the paper counts. Decibels are no ratio
    scale (0 dB is no absence of anything), so `gap_db`, net minus dense, stands beside it. Where
    the teacher gains nothing the share means nothing and is left out.
    """
    means = seed_means(table)
    dense = tables.select(means, variant=DENSE).set_index(PLACE)["value"]
    for place, full in dense.items():
        if full <= 0:
            log.warning("no recovery share on %s: the teacher gains %.2f dB", place, full)
    parts = []
    for row in means[means["condition"].isin(STAGES)].to_dict("records"):
        score, full = row.pop("value"), float(dense[tuple(row[key] for key in PLACE)])
        key: dict[str, Any] = {str(k): v for k, v in row.items()}
        parts.append(_whole(score - full, unit="dB", direction="higher", metric="gap_db", **key))
        if full > 0:
            share = 100 * score / full
            parts.append(
                _whole(share, unit="%", direction="higher", metric="recovery_share", **key)
            )
    return parts


def convergence(
    table: DataFrame, dataset: str, searched: Mapping[tuple[str, str, int], int], epoch: int
) -> list[DataFrame]:
    """Updates each arm needs to reach what SepPrune reaches after one epoch of fine-tuning.

    Per seed, on the mean SI-SDRi of one test set, linear between snapshots. For SepPrune
    itself it is the epoch, so that scratch / SepPrune is the paper's "36 times". A value that is
    censored is the last snapshot's: the arm needs more. `updates_to_match` leaves out what
    choosing the channels took, as the paper does; `updates_to_match_with_search` adds it, for
    scratch too, whose widths come from that search.

    Args:
        dataset: the test set.
        searched: updates that choosing channels took, by (variant, backbone, seed).
        epoch: updates that count as one epoch.
    """
    means = tables.select(seed_means(table), dataset=dataset)
    parts = []
    for (variant, backbone, seed), search in searched.items():
        if variant in NOT_PRUNED:
            continue
        own = {"backbone": backbone, "seed": seed}
        goal = tables.select(means, variant=METHOD, condition="one_epoch", **own)["value"]
        if goal.empty:
            continue
        updates, censored = float(epoch), False
        if variant != METHOD:
            steps, values = curve_of(tables.select(means, variant=variant, **own))
            updates, censored = updates_to_match(steps, values, float(goal.iloc[0]))
        for metric, value in (
            ("updates_to_match", updates),
            ("updates_to_match_with_search", updates + search),
        ):
            parts.append(_whole(
                value, unit="updates", direction="lower", censored=censored, metric=metric,
                paper=str(means["paper"].iloc[0]), dataset=dataset, variant=variant, condition="",
                backbone=backbone, seed=seed,
            ))  # fmt: skip
    return parts


def curve_of(means: DataFrame) -> tuple[list[int], list[float]]:
    """Fine-tuning updates, rising, and the mean score after each, of one net."""
    found = means[means["condition"].str.startswith("ft=")]
    points = sorted(
        (int(condition.removeprefix("ft=")), float(value))
        for condition, value in zip(found["condition"], found["value"], strict=True)
    )
    return [updates for updates, _ in points], [value for _, value in points]


def curves(table: DataFrame, datasets: Sequence[str]) -> dict[tuple[str, str], DataFrame]:
    """Recovery curves by (backbone, variant): means and 95 % intervals of SI-SDRi in dB.

    Columns: updates; si_sdri, low, high on the first of `datasets`; then for each other one
    `<dataset>`, `<dataset>_low`, `<dataset>_high`.
    """
    from pandas import DataFrame

    scores = tables.select(table, metric=HEADLINE)
    scores = scores[scores["condition"].str.startswith("ft=")]
    names = [(HEADLINE, "low", "high"), *((d, f"{d}_low", f"{d}_high") for d in datasets[1:])]
    made = {}
    for (backbone, variant), arm in scores.groupby(["backbone", "variant"], sort=True):
        rows = []
        for updates in sorted({int(c.removeprefix("ft=")) for c in arm["condition"].unique()}):
            row: dict[str, float] = {"updates": updates}
            for dataset, (mean, low, high) in zip(datasets, names, strict=True):
                x = tables.mean(arm, dataset=dataset, condition=f"ft={updates}")
                row |= {mean: x.value, low: x.low, high: x.high}
            rows.append(row)
        made[str(backbone), str(variant)] = DataFrame(rows)
    return made


def metrics(table: DataFrame, dataset: str) -> dict[str, Any]:
    """The summary for `dvc metrics`: per backbone and variant, on one test set, seeds averaged.

    A count of updates that is censored for some seed is left out: its mean would mislead.
    """
    found: dict[str, Any] = {}
    shown = table[(table["dataset"] == dataset) & table["condition"].isin(["", *STAGES])]
    for (backbone, variant, metric, condition), rows in shown.groupby(
        ["backbone", "variant", "metric", "condition"], sort=True
    ):
        if rows["censored"].any():
            continue
        value = round(float(rows["value"].mean()), 4)
        place = found.setdefault(backbone, {}).setdefault(variant, {})
        if condition:
            place.setdefault(metric, {})[condition] = value
        else:
            place[metric] = value
    return found


def _whole(value: float, **fields: Any) -> DataFrame:
    """The row of a score that belongs to a whole test set."""
    return tables.rows([value], [""], **fields)
