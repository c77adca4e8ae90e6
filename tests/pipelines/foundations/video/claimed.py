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
from stages.bench.integer.tables import HALF
from stages.claims.model import Measure, Sheet, load
from stages.claims.verdict import verdicts
from stages.core.dag import seed_range
from stages.core.profiles import overlaid
from stages.core.seeding import seed_of

ROOT = Path(__file__).resolve().parents[4]
FREE = set(METRICS) - {"sqnr", "sqnr_noise", "sqnr_gap", *BITS}
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
    if quantity.metric == "sqnr_gap" and seeds(own) < 2:
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
    if quantity.metric == "latency_ms":
        blocks = bench["blocks"]
        shapes = blocks["nets"].get(quantity.backbone)
        there = shapes is not None and quantity.condition in (
            "tokens=clip",
            *(f"tokens={count}" for count in shapes),
        )
        return there and arms <= {a for a, kernels in blocks["arms"].items() if "exact" in kernels}
    if quantity.backbone == backbone:
        made = {arm for arm, kernels in models["arms"].items() if "exact" in kernels}
        return quantity.condition == models["bits"] and arms <= made
    counted = quantity.backbone in nets and quantity.condition in stored["bits"]
    return counted and arms <= set(stored["arms"])


def judge(paper: str, conditions: str, profile: str) -> list[dict[str, Any]]:
    """Verdicts on made-up scores that have what the profile's stages write, and no more."""
    own, sheet = section(paper, profile), load(ROOT / f"pipelines/{paper}/claims.yaml")
    scores = {"evaluate": _evaluated(own, conditions), "bench": _measured(sheet)}
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


def _measured(sheet: Sheet) -> pandas.DataFrame:
    """What bench writes of whatever a claim asks of it."""
    asked = [claim.at(cell) for claim in sheet.claims for cell in claim.places()]
    keys = {
        (m.metric, str(m.backbone), str(arm), "" if arm == HALF else str(m.condition))
        for m in asked
        if m.table == "bench"
        for arm in (m.variant, m.baseline)
        if arm is not None
    }
    units = {"latency_ms": ("ms", "lower"), "stored_bits": ("bits", "lower"),
             "deployed_agreement": ("dB", "higher")}  # fmt: skip
    return pandas.concat([
        _rows(arm, condition, 0, metric, units[metric], backbone)
        for metric, backbone, arm, condition in sorted(keys)
    ])  # fmt: skip


def _rows(
    variant: str, condition: str, seed: int, metric: str, about: tuple[str, str],
    backbone: str = "net",
) -> pandas.DataFrame:  # fmt: skip
    whole = metric.startswith(("frechet", "bits_", "stored")) or metric in (*BITS, "trainable")
    items = [""] if whole else ["p", "q", "r"]
    drawn = np.random.default_rng(seed_of(variant, condition, seed, metric)).normal(size=len(items))
    return pandas.DataFrame({
        "paper": "paper", "backbone": backbone, "dataset": "digits", "variant": variant,
        "condition": condition, "seed": seed, "item": items, "metric": metric,
        "value": 5 + drawn, "unit": about[0], "direction": about[1], "censored": False,
    })  # fmt: skip
