"""The stage `bench` on a small teacher: what is deployed, and what the estimator's branch adds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from pipelines.foundations.video import measure_arms, measure_held
from pipelines.foundations.video.bench_models import least_ms
from pipelines.foundations.video.bench_params import Blocks, Models
from pipelines.foundations.video.data import Clips
from pipelines.q_vdit import bench, quantize, student
from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.samples import SALIENCE
from pipelines.q_vdit.tqe import TokenAware
from stages.bench.integer.cases import BY_NAME, Case
from stages.bench.integer.stored import stored
from stages.bench.kernels.block import Block
from stages.bench.kernels.roofline import Limits
from stages.core import environment
from stages.core import params as core
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json, write_bytes, write_json
from stages.core.job import Inputs
from stages.core.results import read_scores
from stages.prepare.tables import read_csv
from stages.quantize.layers import QuantLinear, quantized
from tests.jobs import for_tests
from tests.pipelines.foundations.video.small import prepared
from tests.pipelines.q_vdit import small

DEPS = (
    "work/foundations/video/prepare",
    "work/foundations/video/teach/latte",
    "work/foundations/video/gate/latte",
    "work/q_vdit/calibrate",
    "work/q_vdit/quantize",
)
NODE = Node("q_vdit", "bench", None, None, DEPS, (), ())
ARMS: dict[str, Any] = {
    "q_vdit": {**small.TOKEN, "temporal": small.TERM},
    "mse": {"inner": 1, "scope": "model"},
}
ONCE = {"rounds": 1, "repeats": 1, "warmup": 0}
VALUES: dict[str, Any] = {
    "common": {"threads": 1, "device": "cpu"},
    "q_vdit": {
        "quantize": {
            "seeds": ["0"], "cells": ["W4A6-mix", "W3A8-mix"], "momentum": 0.95, "batch": 4,
            "held": 2, "train": small.TRAIN, "rates": small.RATES, "variants": ARMS,
        },
        "calibrate": {"prompts": 2, "steps": 2, "batch": 4},
        "evaluate": {"seed": 0, "free": {"clips": 6}, "forced": {"steps": 3}},
        "bench": {
            "threads": 1,
            "limits": {
                "arithmetic": [{"tokens": 16, "width": 64}, {"tokens": 8, "width": 64}],
                "reading": 128, "often": ONCE,
            },
            "models": {
                "arms": {"q_vdit": ["exact"]}, "bits": ["W4A6-mix", "W3A8-mix"],
                "seed": 0, "clips": 2,
                "often": ONCE,
            },
            "blocks": {
                "arms": {"q_vdit": ["exact"], "mse": ["exact"]}, "bits": "W4A8-mix",
                "nets": {"tiny": [16]}, "part": 4, "attention_gb": 1.0, "gigamacs": 1.0,
                "often": ONCE,
            },
            "stored": {"arms": ["q_vdit", "mse"], "bits": ["W3A6-mix", "W3A6-all"]},
            "calibration": {"arms": ["mse"], "bits": "W3A6-mix", "seed": 0, "repeats": 1},
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> Iterator[str]:
    """A published network of no size, of two frames, so that its blocks take no time."""
    with pytest.MonkeyPatch.context() as patch:
        net = replace(BY_NAME["latte-xl-2"], name="Tiny", width=32, heads=2, video=16, attended=8)
        patch.setitem(BY_NAME, "tiny", net)
        yield "tiny"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Path:
    """The stage's output, after those before it have run on a small teacher."""
    root = tmp_path_factory.mktemp("q")
    small.foundation(root)
    prepared(root / "work/foundations/video/prepare")
    machine = {"cpu": "Abacus 3000", "cores": 2, "memory_gb": 8, "gpu": [], "os": "Linux x86_64"}
    write_json(root / "work/device.json", machine)
    environment.make_deterministic(1)
    start, folder = small.ground(), root / "work/q_vdit/calibrate/seed0"
    start.samples.save(folder)
    tables = {name: table.contiguous() for name, table in start.salience.items()}
    write_bytes(folder / SALIENCE, save(tables))
    for arm in ARMS:
        out = root / f"work/q_vdit/quantize/{arm}/0"
        out.mkdir(parents=True)
        node = Node("q_vdit", "quantize", arm, "0", DEPS, (), ())
        with for_tests(root / arm, node) as job:
            own = core.build(quantize.Params, VALUES, "q_vdit", "quantize", arm)
            quantize.run(own, Inputs(root, node), out, job)
    out = root / "out"
    out.mkdir()
    with for_tests(root, NODE) as job:
        params = core.build(bench.Params, VALUES, "q_vdit", "bench")
        bench.run(params, Inputs(root, NODE), out, job)
    return out


def test_the_branch_is_deployed_and_timed(done: Path) -> None:
    rows = read_json(done / "bench.json")
    assert [(r["backbone"], r["condition"], r["variant"]) for r in rows] == [
        *(
            ("latte", condition, variant)
            for condition in ("W4A8-mix", "W3A8-mix")
            for variant in ("full", "q_vdit")
        ),
        *(
            ("tiny", condition, variant)
            for condition in ("tokens=16", "tokens=clip")
            for variant in ("full", "q_vdit", "mse")
        ),
    ]
    table = read_scores(done / "scores.parquet")
    agreement = table[table["metric"] == "deployed_agreement"]["value"]
    assert len(agreement) == 4 and agreement.min() > 40
    # What all arms share is timed beside an arm.
    assert set(table[table["metric"] == "calibration_ms"]["variant"]) == {"calibrate", "mse"}


def test_bits_are_told_as_they_were_asked_for_and_as_they_run(done: Path) -> None:
    rows = {(r["condition"], r["bits"]): r for r in read_json(done / "bench.json")}
    # Feed-forward networks at 8 bits: two thirds of the block's weights.
    assert rows["tokens=16", "W4A8-mix"]["weight_bits"] == pytest.approx(20 / 3, abs=1e-4)
    assert rows["W4A8-mix", "W4A6-mix"]["weight_bits"] > 4
    assert 6 < rows["W4A8-mix", "W4A6-mix"]["activation_codes"] < 8
    assert rows["W3A8-mix", "W3A8-mix"]["activation_codes"] == 8
    told = {(r["bits"], r["runs as"]) for r in read_csv(done / "models.csv")}
    assert told == {("", ""), ("W4A6-mix", "W4A8-mix"), ("W3A8-mix", "W3A8-mix")}


def test_our_networks_stand_beside_the_machines_limits(done: Path) -> None:
    own = [r for r in read_json(done / "bench.json") if r["backbone"] == "latte"]
    assert len(own) == 4 and all(r["least_ms"] > 0 for r in own)
    with torch.device("meta"):
        layer = QuantLinear(nn.Linear(64, 32), bench.CLOSEST, bench.INPUTS)
    limits = Limits(threads=1, float_gops=10.0, integer_gops=40.0, gigabytes=1e9)
    # 100 tokens through 32 × 64 weights in integers, and as many other products in float32.
    half, macs = 100 * 32 * 64, 2 * 100 * 32 * 64
    found = least_ms(limits, {"a": layer}, {"a": 100}, macs, "exact")
    assert found == pytest.approx(2e-6 * (half / 40 + half / 10))
    found = least_ms(limits, {"a": layer}, {"a": 100}, macs, "full")
    assert found == pytest.approx(2e-6 * macs / 10)


def test_quality_is_judged_on_evaluates_clips(done: Path) -> None:
    table = read_scores(done / "scores.parquet")
    root = done.parent
    clips = Clips.load(root / "work/foundations/video/prepare")
    taught, sampling = small.taught(), small.SAMPLING
    jury: Any = SimpleNamespace(shape=taught.shape)
    held = measure_held.hold(
        clips, taught, sampling, jury, root / "held", seed=0, count=6, predicted=2, batch=6
    )
    own = table[(table["metric"] == "evaluated_sqnr") & (table["condition"] == "W3A8-mix")]
    assert sorted(own["item"]) == sorted(held.asked.ids[:2])
    net = student.load(root / "work/q_vdit/quantize/q_vdit/0/W3A8-mix/seed0", taught)
    found = measure_arms.ask(net, held, 3, 0, list(quantized(net))).prediction.mean(0)
    wanted = dict(zip(held.asked.ids, found.tolist(), strict=False))
    assert dict(zip(own["item"], own["value"], strict=True)) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("bits", [["W4A6", "W4A8"], ["W3A6-mix", "W3A8-mix"]])
def test_bits_that_run_alike_are_refused(bits: list[str]) -> None:
    wanted = VALUES["q_vdit"]["bench"]["models"] | {"bits": bits}
    with pytest.raises(ValueError, match="run alike"):
        Models.model_validate(wanted)


def test_small_blocks_run_more_often() -> None:
    wanted: dict[str, Any] = {**VALUES["q_vdit"]["bench"]["blocks"], "gigamacs": 6.0}
    often = {"rounds": 5, "repeats": 10, "warmup": 2}
    blocks = Blocks.model_validate({**wanted, "often": often})
    assert [blocks.plan(int(1e9 * x)).repeats for x in (0.01, 1, 2.5, 20)] == [10, 6, 2, 1]
    assert blocks.plan(1).rounds == 5


def test_blocks_keep_frames_apart_and_their_gain(tiny: str) -> None:
    case = Case(BY_NAME[tiny], 2, 8, 8, clip=False)
    block = Block(32, 2, 8)
    arm = Arm.model_validate(ARMS["q_vdit"])
    bench.dress(arm, "W3A6-mix")(block, case)
    layers = quantized(block)
    widths = {name: layer.weights.grid.bits for name, layer in layers.items()}
    assert widths == {"to_q": 3, "to_k": 3, "to_v": 3, "to_out": 3, "ff.0": 8, "ff.2": 8}
    for layer in layers.values():
        assert isinstance(layer.beside, TokenAware) and layer.beside.gain is not None
        assert len(layer.beside.gain) == 2
        assert layer.inputs is not None
        assert layer.inputs.grid.bits == (6 if layer.weights.grid.bits == 3 else 8)


def test_a_branch_costs_a_row_a_column_and_a_gain() -> None:
    """in + out + T numbers a layer (section 3.2), and no gain where a layer sees words."""
    net = BY_NAME["open-sora-stdit-xl-2"]
    arms = {name: Arm.model_validate(arm) for name, arm in ARMS.items()}
    own = stored(net, bench.make(arms["q_vdit"], "W3A6-all"))
    plain = stored(net, bench.make(arms["mse"], "W3A6-all"))
    numbers = sum(
        layer.count * (layer.rows + layer.columns + (0 if layer.sees == "text" else 16))
        for layer in net.layers
    )
    assert own.ledger.beside == 16 * numbers and plain.ledger.beside == 0
    assert own.ledger.total - plain.ledger.total == 16 * numbers
    assert own.ledger.codes == 3 * net.weights


def test_the_mix_is_counted_by_layer() -> None:
    net = BY_NAME["latte-xl-2"]
    arm = Arm.model_validate(ARMS["mse"])
    found = stored(net, bench.make(arm, "W3A6-mix")).ledger
    feed_forward = sum(x.weights for x in net.layers if x.name.startswith("mlp."))
    assert 0 < feed_forward < net.weights
    assert found.codes == 3 * (net.weights - feed_forward) + 8 * feed_forward
    # A step of 16 bits and a zero point of as many bits as its codes for every output.
    rows = {True: 0, False: 0}
    for layer in net.layers:
        rows[layer.name.startswith("mlp.")] += layer.count * layer.rows
    assert found.scales == 16 * sum(rows.values())
    assert found.zeros == 8 * rows[True] + 3 * rows[False]


def test_groups_that_were_searched_for_are_refused() -> None:
    search = {"group": 8, "sizes": [8, 16], "population": 4, "generations": 1, "samples": 2}
    arm = Arm.model_validate({"search": search})
    block: nn.Module = Block(32, 2, 8)
    case = Case(BY_NAME["latte-xl-2"], 1, 8, 8, clip=False)
    with pytest.raises(UserError, match="groups by search"):
        bench.dress(arm, "W4A8-all")(block, case)
