"""From scores and answers to what they say: curves over the steps, sums, tables for the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipelines.foundations.video.measure_arms import Answers
from pipelines.foundations.video.measure_plan import Unit
from pipelines.foundations.video.measure_rows import AGAIN, FULL, HEADLINE, REAL
from stages.core.pictures import add_exhibit
from stages.core.stats import Interval
from stages.evaluate import tables
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from pandas import DataFrame

Label = Callable[[str], str]
REFERENCES = {
    FULL: "full precision",
    AGAIN: "full precision, other noise",
    REAL: "real clips",
}
SHOWN = (
    "agreement", "same_as_full", "frechet_full", "frechet_real", "drift", "psnr",
    "flicker_error", "similarity_error",
)  # fmt: skip
"""Of clips that arms walked to by themselves: the columns of the page's table."""


def curves(
    answers: Mapping[Unit, Answers], condition: str, times: Tensor, clips: int
) -> dict[str, DataFrame]:
    """Means over clips and seeds by step, a column a variant.

    Args:
        clips: of models that were asked to walk to all of them.

    Returns:
        `sqnr`: of the prediction at each step that was looked at; `drift`: of the free walks before
        each step and behind the last one; left out where no model walked to all clips. Columns
        beside the variants': `step`, 1 being pure noise, and, of `sqnr`, its `time`.
    """
    from pandas import DataFrame

    own = {unit: found for unit, found in answers.items() if unit.condition == condition}
    steps = next(iter(own.values())).steps
    places = {"step": (steps + 1).tolist(), "time": times[steps].tolist()}
    means = _means({unit: found.prediction for unit, found in own.items()})
    made = {HEADLINE: DataFrame({**places, **means})}
    free = {unit: found.drift for unit, found in own.items() if len(found.clips) == clips}
    if free:
        made["drift"] = DataFrame({"step": list(range(1, len(times) + 2)), **_means(free)})
    return made


def _means(found: Mapping[Unit, Tensor]) -> dict[str, list[float]]:
    by: dict[str, list[Tensor]] = {}
    for unit, values in found.items():
        by.setdefault(unit.variant, []).append(values)
    return {variant: torch.cat(parts, 1).mean(1).tolist() for variant, parts in by.items()}


def quality(table: DataFrame) -> dict[tuple[str, str], tuple[float, float, Interval]]:
    """By condition and variant: mean width of inputs, stored bits a weight, and SQNR."""
    found = {}
    scores = table[table["metric"] == HEADLINE]
    for condition, variant in _pairs(scores):
        where = {"condition": condition, "variant": variant}
        width, stored = (
            float(tables.select(table, metric=name, **where)["value"].mean())
            for name in ("input_bits", "bits_per_weight")
        )
        found[condition, variant] = (
            width, stored, tables.mean(scores, metric=HEADLINE, **where)
        )  # fmt: skip
    return found


def _pairs(scores: DataFrame) -> list[tuple[str, str]]:
    pairs = scores[["condition", "variant"]].drop_duplicates()
    return [(str(condition), str(variant)) for condition, variant in pairs.itertuples(index=False)]


def write_tables(out: Path, table: DataFrame, label: Label) -> None:
    """Bits and SQNR of every cell; what was measured of the clips of the headline cells."""
    rows = [
        {
            "bits": condition,
            "arm": label(variant),
            "bits of codes": f"{_mean(table, condition, variant, 'weight_bits'):.3f}",
            "stored, a weight": f"{stored:.3f}",
            "stored, a number of the model": (
                f"{_mean(table, condition, variant, 'bits_per_value'):.3f}"
            ),
            "SQNR in dB": f"{found.value:.2f}",
        }
        for (condition, variant), (_, stored, found) in quality(table).items()
    ]
    write_csv(out / "quality.csv", rows)
    add_exhibit(
        out,
        kind="table",
        name="quality",
        file="quality.csv",
        title="True bits and signal to quantization noise",
        caption="Bits of codes are the mean width over the blocks' weights. Stored bits hold "
        "steps, zero points, transforms and branches too, by quantized weight; and by number of "
        "the whole model also biases and all that stays in full precision. Floating-point numbers "
        "count 32 bits here, as they are while arms are judged; sizes of the bench count 16, as "
        "published ones do. Means over seeds and held-out clips.",
    )
    rows = []
    for condition, variant in _pairs(table[table["metric"] == "agreement"]):
        own = {m: _mean(table, condition, variant, m) for m in SHOWN}
        rows.append({
            "bits": condition or "32",
            "arm": label(variant),
            "seeds": _seeds(table, condition, variant) if condition else "",
            **{name: "" if value is None else f"{value:.3g}" for name, value in own.items()},
        })  # fmt: skip
    write_csv(out / "free.csv", rows)
    add_exhibit(
        out,
        kind="table",
        name="free",
        file="free.csv",
        title="Clips that arms walked to by themselves",
        caption="From the same noise as full precision's, means over clips and so many calibration "
        "seeds; what they mean stands in the paper's card. The first rows are what nothing "
        "quantized reaches: full precision, the same from other noise, and real clips.",
    )


def _seeds(table: DataFrame, condition: str, variant: str) -> str:
    """Of which clips were made: arms may walk at fewer seeds than they are judged step by step."""
    where = {"condition": condition, "variant": variant, "metric": "agreement"}
    return str(tables.select(table, **where)["seed"].nunique())


def _mean(table: DataFrame, condition: str, variant: str, metric: str) -> float | None:
    found = tables.select(table, condition=condition, variant=variant, metric=metric)
    return None if found.empty else float(found["value"].mean())


def metrics(table: DataFrame) -> dict[str, Any]:
    """The summary for `dvc metrics`: variant, condition where there is one, metric."""
    found: dict[str, Any] = {}
    keys = ["variant", "condition", "metric"]
    for (variant, condition, metric), rows in table.groupby(keys, sort=True):
        here = found.setdefault(str(variant), {})
        if condition:
            here = here.setdefault(str(condition), {})
        here[str(metric)] = round(float(rows["value"].mean()), 5)
    return found
