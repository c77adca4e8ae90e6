"""What a profile of a paper on video scores: for tests of where its claims can be tested."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from pipelines.foundations.video.measure_arms import BITS
from pipelines.foundations.video.measure_rows import FULL, METRICS
from stages.bench.integer.cases import cases
from stages.bench.integer.graphs import as_run
from stages.bench.integer.results import HALF
from stages.claims.model import Measure, Needs, load
from stages.claims.verdict import verdicts
from stages.core.dag import seed_range
from stages.core.profiles import overlaid
from stages.core.seeding import seed_of

ROOT = Path(__file__).resolve().parents[4]
SPREADS = {"sqnr_gap", "score_gap"}
FREE = set(METRICS) - {"sqnr", "sqnr_noise", *SPREADS, *BITS}
"""Measures of clips that an arm walked to by itself."""
LADDER = ("desk", "lab")
"""Profiles on the same data, each with all of the one before."""


@cache
def section(paper: str, profile: str) -> dict[str, Any]:
    values: dict[str, Any] = overlaid(ROOT, profile)[0][paper]
    return values


def seeds(own: dict[str, Any]) -> int:
    """Calibration sets of a paper's section."""
    return sum(len(seed_range(text)) for text in own["quantize"]["seeds"])


def judged(own: dict[str, Any], conditions: str, quantity: Measure) -> bool:
    """Whether evaluate scores both arms of a claim.

    Args:
        own: the paper's section.
        conditions: the key of quantize that names the bits.
    """
    quantize, free = own["quantize"], own["evaluate"]["free"]["cells"]
    if quantity.condition not in quantize[conditions]:
        return False
    there = set(quantize["variants"])
    if quantity.metric in FREE:
        there = {FULL, *free.get(quantity.condition, {})}
    if quantity.metric in SPREADS and seeds(own) < 2:
        return False
    return {quantity.variant, quantity.baseline} - {None} <= there


def benched(own: dict[str, Any], backbone: str, nets: Sequence[str], quantity: Measure) -> bool:
    """Whether bench measures both arms of a claim.

    Args:
        own: the paper's section.
        backbone: the network that is trained here.
        nets: published ones whose true bits are counted.
    """
    bench, arms = own["bench"], {quantity.variant, quantity.baseline} - {None, FULL, HALF}
    models, stored = bench["models"], bench["stored"]
    made = {arm for arm, kernels in models["arms"].items() if "exact" in kernels}
    if quantity.metric == "update_over_pass":
        wanted = bench["updates"]
        sizes = {f"width-{size['width']}" for size in wanted["blocks"]}
        there = quantity.backbone in sizes and quantity.condition == wanted["bits"]
        return there and arms <= set(wanted["arms"])
    if quantity.metric == "latency_ms" and quantity.backbone == backbone:
        return quantity.condition in map(as_run, models["bits"]) and arms <= made
    if quantity.metric == "latency_ms":
        blocks = bench["blocks"]
        fit, _ = cases(blocks["nets"], blocks["part"], blocks["attention_gb"])
        timed = {(case.backbone, case.condition) for case in fit}
        exact = {arm for arm, kernels in blocks["arms"].items() if "exact" in kernels}
        return (quantity.backbone, quantity.condition) in timed and arms <= exact
    if quantity.backbone == backbone:
        return quantity.condition in models["bits"] and arms <= made
    counted = quantity.backbone in nets and quantity.condition in stored["bits"]
    return counted and arms <= set(stored["arms"])


def where(need: Needs | None) -> list[bool]:
    """Whether each profile of `LADDER` must have what a claim or a cell needs."""
    first = need.profile if need else LADDER[0]
    reached = first in LADDER
    return [reached and LADDER.index(profile) >= LADDER.index(first) for profile in LADDER]


def judge(
    paper: str, conditions: str, profile: str, backbone: str, nets: Sequence[str]
) -> list[dict[str, Any]]:
    """Verdicts on made-up scores that have what the profile's stages write, and no more."""
    own, sheet = section(paper, profile), load(ROOT / f"pipelines/{paper}/claims.yaml")
    asked = [claim.at(cell) for claim in sheet.claims for cell in claim.places()]
    there = [m for m in asked if m.table == "bench" and benched(own, backbone, nets, m)]
    scores = {"evaluate": _evaluated(own, conditions), "bench": _measured(there)}
    return verdicts(sheet, scores, profile)


def _evaluated(own: dict[str, Any], conditions: str) -> pandas.DataFrame:
    """Every metric of every cell; a spread of scores in which no arm is better."""
    quantize, free = own["quantize"], own["evaluate"]["free"]["cells"]
    units = {**METRICS, "trainable": ("numbers", "none"), "block_error_received": ("1", "lower")}
    cells = [(v, c, s) for v in quantize["variants"] for c in quantize[conditions]
             for s in range(seeds(own))]  # fmt: skip
    parts = [_rows(FULL, "", 0, metric, units[metric]) for metric in FREE]
    for variant, condition, seed in cells:
        walked = seed < free.get(condition, {}).get(variant, 0)
        names = [name for name in units if walked or name not in FREE]
        parts += [_rows(variant, condition, seed, name, units[name]) for name in names]
    return pandas.concat(parts)


def _measured(asked: Sequence[Measure]) -> pandas.DataFrame:
    """What bench writes of what claims ask of it; a size without bits is of no bits."""
    keys = {
        (m.metric, str(m.backbone), str(arm), _bits(arm, m))
        for m in asked
        for arm in (m.variant, m.baseline)
        if arm is not None
    }
    units = {"latency_ms": ("ms", "lower"), "stored_bits": ("bits", "lower"),
             "deployed_agreement": ("dB", "higher"), "file_mb": ("MB", "lower"),
             "update_over_pass": ("×", "lower")}  # fmt: skip
    return pandas.concat([
        _rows(arm, condition, 0, metric, units[metric], backbone)
        for metric, backbone, arm, condition in sorted(keys)
    ])  # fmt: skip


def _bits(arm: str | None, quantity: Measure) -> str:
    whole = arm == HALF or (arm == FULL and quantity.metric in ("stored_bits", "file_mb"))
    return "" if whole else str(quantity.condition)


def _rows(
    variant: str, condition: str, seed: int, metric: str, about: tuple[str, str],
    backbone: str = "net",
) -> pandas.DataFrame:  # fmt: skip
    whole = metric.startswith(("bits_", "stored")) or metric in (
        *BITS, "trainable", "score_gap", "file_mb",
    )  # fmt: skip
    items = [""] if whole else ["p", "q", "r"]
    drawn = np.random.default_rng(seed_of(variant, condition, seed, metric)).normal(size=len(items))
    return pandas.DataFrame({
        "paper": "paper", "backbone": backbone, "dataset": "digits", "variant": variant,
        "condition": condition, "seed": seed, "item": items, "metric": metric,
        "value": 5 + drawn, "unit": about[0], "direction": about[1], "censored": False,
    })  # fmt: skip
