"""A small project with made-up results in the shape that the stages write."""

from __future__ import annotations

import itertools
import json
import math
import wave
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import pictures
from stages.core.results import write_scores

CARD = """# Pruning by example: a made-up paper

A. Author, B. Author: *Pruning by example*, a venue, 2025.
[arXiv:2505.00001](https://arxiv.org/abs/2505.00001v2)

Channels are dropped by what they add to the score; the rest is tuned again.

## Method
A line with a [web link](https://example.org/x) and a [file](model.py).

| exact | reconstructed |
|---|---|
| loss | temperature |
"""

DVC = """stages:
  evaluate:
    cmd: python -m stages evaluate demo
    wdir: ../..
    deps: [work/demo/teach]
    outs: [work/demo/evaluate]
  bench:
    cmd: python -m stages bench demo
    wdir: ../..
    deps: [work/demo/teach]
    outs: [work/demo/bench]
  prune:
    matrix:
      variant: ${demo.prune.variants}
    cmd: python -m stages prune demo --variant ${item.variant}
    wdir: ../..
    outs: ["work/demo/prune/${item.variant}"]
"""

PARAMS = """demo:
  prune:
    variants:
      method: {a: 1}
      random: {a: 2}
"""

DEPS = ("work/demo/evaluate", "work/demo/bench", "reports/papers/demo.json")
ARMS = {"dense": 10.2, "method": 9.4, "random": 8.1, "scratch": 5.0}


def claim(name: str, verdict: str, **other: Any) -> dict[str, Any]:
    """A verdict as the stage claims writes it."""
    made = {
        "paper": "demo",
        "id": name,
        "verdict": verdict,
        "claim": f"The method does what the claim {name} says of it.",
        "where": "abstract; table 2",
        "value": 1.3,
        "low": 0.9,
        "high": 1.7,
        "published": 1.75,
        "unit": "dB",
        "rule": "better than random",
        "seeds": 3,
        "profile": "desk",
        "measured": "mean SI-SDRi of method minus that of random; paired by seed and test item",
        "given": "one teacher",
        "combine": "each",
        "published_note": "",
        "headline": "",
        "bounded": "",
        "needs": "",
        "differs": "8 kHz, a smaller net, 600 updates",
        "reason": "",
        "neutral": None,
        "cells": [],
        "timing": False,
    }
    return made | other


def cell(label: str, verdict: str, **other: Any) -> dict[str, Any]:
    """One cell of a claim, likewise."""
    made = {
        "backbone": label, "verdict": verdict, "value": 1.3, "low": 0.9,
        "high": 1.7, "published": 1.75, "bounded": "", "reason": "", "needs": "", "seeds": 3,
        "items": 20, "seeds_to_settle": None,
        "ratio": 1.2, "ratio_low": 1.1, "ratio_high": 1.3, "ratio_unit": "×",
    }  # fmt: skip
    return made | other


CLAIMS = [
    claim("better-than-random", "holds", headline="net_b", neutral=0.0,
          reason="the weakest cell (net_b): the interval lies wholly on the claimed side of 0 dB",
          cells=[cell("net_a", "holds", value=1.5), cell("net_b", "holds")]),
    claim("converges-faster", "holds in direction", value=4.2, low=2.5, high=7.0, published=36.0,
          unit="×", bounded="at least", neutral=1.0),
    claim("recovers", "fails", value=71.5, low=66.0, high=77.25, published=85.0, unit="%"),
    claim("faster", "inconclusive", value=1.03, low=0.96, high=1.11, published=1.08, unit="×",
          timing=True, neutral=1.0),
    claim("third-net", "not testable here", value=None, low=None, high=None, published=0.5,
          seeds=0, reason="profile: lab; the third net is not trained at desk"),
    claim("half-the-parameters", "check passed", value=50.0, low=50.0, high=50.0, published=None,
          unit="%", reason="every seed is as it was set"),
]  # fmt: skip


def score(**keys: Any) -> dict[str, Any]:
    """A row of the table of scores."""
    common = {"paper": "demo", "unit": "dB", "direction": "higher", "censored": False}
    return common | keys


def score_rows() -> list[dict[str, Any]]:
    """Scores of every arm: 20 test items, three seeds, one seed of the teacher."""
    rng = np.random.default_rng(0)
    hard = rng.normal(size=20)  # what makes an item hard is the same for every arm
    gains = {"": 0, "ft=0": -4, "ft=50": -1, "ft=200": 0}
    rows = []
    for backbone, dataset, arm in itertools.product(("net_a", "net_b"), ("seen", "unseen"), ARMS):
        seeds = range(1 if arm == "dense" else 3)
        conditions = [c for c in gains if (c == "") == (arm == "dense")]
        for condition, seed in itertools.product(conditions, seeds):
            level = ARMS[arm] + gains[condition]
            keys = {"backbone": backbone, "dataset": dataset, "variant": arm}
            keys |= {"condition": condition, "seed": seed}
            values = level + hard + rng.normal(scale=0.3, size=20)
            rows += [
                score(**keys, item=f"{i:03}", metric=metric, value=float(value + shift))
                for metric, shift in (("SI-SDRi", 0.0), ("SDRi", 0.4))
                for i, value in enumerate(values)
            ]
    keys = {"backbone": "net_a", "dataset": "seen", "variant": "scratch", "condition": ""}
    keys |= {"item": "", "metric": "updates to match", "unit": "updates", "direction": "lower"}
    rows += [
        score(**keys, seed=seed, value=updates, censored=updates == 600)
        for seed, updates in enumerate((400.0, 600.0, 600.0))
    ]
    return rows


def bench_rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of bench.json, and the repeated measurements below them."""
    rng = np.random.default_rng(1)
    rows, scores = [], []
    for (arm, latency), threads in itertools.product((("dense", 41.3), ("method", 37.9)), (1, 2)):
        rows.append({
            "paper": "demo", "backbone": "net_a", "variant": arm, "runtime": "onnxruntime",
            "weight_bits": 32, "activation_bits": 32, "threads": threads,
            "shape": [1, 8000], "latency_ms": latency / threads,
            "baseline_latency_ms": 41.3 / threads, "size_mb": 0.4, "baseline_size_mb": 0.6,
            "peak_memory_mb": 88.0, "macs": 41_200_000, "device": "a CPU",
        })  # fmt: skip
        keys = {"backbone": "net_a", "dataset": "1 s", "variant": arm, "seed": 0, "unit": "ms"}
        keys |= {"condition": f"threads={threads}", "metric": "latency_ms", "direction": "lower"}
        times = latency / threads * rng.uniform(1, 1.1, size=12)
        scores += [score(**keys, item=f"{i:03}", value=float(v)) for i, v in enumerate(times)]
    return rows, scores


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def provenance(folder: Path, stage: str) -> None:
    digests = {"code": "0c0de", "data": "0da7a", "params": "09a9a", "environment": "0e0e"}
    named = {key: f"{value}{stage[:2].encode().hex()}ffffff" for key, value in digests.items()}
    dump(folder / "provenance.json", named | {
        "stage": stage, "paper": "demo", "variant": None, "seeds": None,
        "command": f"python -m stages {stage} demo",
    })  # fmt: skip


def curves(theme: pictures.Theme) -> Any:
    figure, axes = theme.axes(xlabel="updates of fine-tuning", ylabel="SI-SDRi in dB")
    for i, (arm, level) in enumerate(ARMS.items()):
        updates = np.array([0, 50, 100, 200])
        axes.plot(updates, level - 4 * np.exp(-updates / 60), label=arm, **theme.style(i))
    axes.legend()
    return figure


def spectrogram(theme: pictures.Theme) -> Any:
    figure = theme.figure(6.4, 2.6)
    for axes in figure.subplots(1, 2, sharey=True):
        axes.grid(False)
        axes.imshow(np.random.default_rng(0).random((40, 60)), aspect="auto", origin="lower")
        axes.set_xlabel("time")
    return figure


def tone(path: Path, hertz: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave_form = [int(8000 * math.sin(2 * math.pi * hertz * t / 8000)) for t in range(4000)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.array(wave_form, dtype="<i2").tobytes())


def build(root: Path) -> None:
    """Write the project's files below `root`, all but what the code under test makes."""
    paper = root / "pipelines/demo"
    paper.mkdir(parents=True)
    (paper / "README.md").write_text(CARD, encoding="utf-8")
    (paper / "dvc.yaml").write_text(DVC, encoding="utf-8")
    (root / "params.yaml").write_text(PARAMS, encoding="utf-8")
    evaluate, bench = root / "work/demo/evaluate", root / "work/demo/bench"
    for folder, stage in ((evaluate, "evaluate"), (bench, "bench")):
        provenance(folder, stage)
    write_scores(evaluate / "scores.parquet", score_rows())
    texts = {"title": "Recovery", "caption": "Score after so many updates.", "alt": "All recover."}
    pictures.save(evaluate, "recovery", curves, **texts)
    texts = {"title": "Spectrograms", "caption": "One mixture.", "alt": "Two voices."}
    pictures.save(evaluate, "spectrogram", spectrogram, **texts)
    for name, hertz in (("mixture", 330), ("method", 440), ("target", 550)):
        tone(evaluate / f"audio/{name}.wav", hertz)
        pictures.add_exhibit(evaluate, kind="audio", name=name, file=f"audio/{name}.wav",
                             title=name, group="Mixture 1, two seen speakers")  # fmt: skip
    (evaluate / "structure.csv").write_text("module,macs,share\na,1200,0.75\nb,400,0.25\n")
    pictures.add_exhibit(evaluate, kind="table", name="structure", file="structure.csv",
                         title="Structure", caption="Cost by module.")  # fmt: skip
    rows, scores = bench_rows()
    dump(bench / "bench.json", rows)
    write_scores(bench / "scores.parquet", scores)
    head = {"schema_version": "1.0", "paper": "demo", "profile": "desk"}
    dump(root / "reports/papers/demo.json", head | {"claims": CLAIMS})
    for name, seconds in (("evaluate", 61.5), ("bench", 12.0), ("prune@method", 240.0)):
        dump(root / f"receipts/demo/{name}.json",
             {"seconds": seconds, "cpu_seconds": seconds - 1, "peak_memory_mb": 410.5})  # fmt: skip


def verdicts_of(root: Path) -> str:
    return (root / "reports/papers/demo.json").read_text(encoding="utf-8")
