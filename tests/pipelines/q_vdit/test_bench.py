"""The stage `bench` on a small teacher: what is deployed, and what the estimator's branch adds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save
from torch import nn

from pipelines.q_vdit import bench, quantize
from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.samples import SALIENCE
from pipelines.q_vdit.tqe import TokenAware
from stages.bench.integer.cases import BY_NAME, Case
from stages.bench.integer.stored import stored
from stages.bench.kernels.block import Block
from stages.core import environment
from stages.core import params as core
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json, write_bytes, write_json
from stages.core.job import Inputs
from stages.core.results import read_scores
from stages.quantize.layers import quantized
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
            "seeds": ["0"], "cells": ["W3A6-mix"], "momentum": 0.95, "batch": 4,
            "train": small.TRAIN, "rates": small.RATES, "variants": ARMS,
        },
        "bench": {
            "threads": 1,
            "limits": {"tokens": 16, "width": 64, "reading": 128, "often": ONCE},
            "models": {
                "arms": {"q_vdit": ["exact"]}, "bits": "W3A6-mix", "seed": 0, "clips": 2,
                "often": ONCE,
            },
            "blocks": {
                "arms": {"q_vdit": ["exact"], "mse": ["exact"]}, "bits": "W4A8-mix",
                "nets": {"tiny": [16]}, "part": 4, "attention_gb": 1.0, "often": ONCE,
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
        *(("latte", "W3A8-mix", variant) for variant in ("full", "q_vdit")),
        *(
            ("tiny", condition, variant)
            for condition in ("tokens=16", "tokens=clip")
            for variant in ("full", "q_vdit", "mse")
        ),
    ]
    table = read_scores(done / "scores.parquet")
    agreement = table[table["metric"] == "deployed_agreement"]["value"]
    assert len(agreement) == 2 and agreement.min() > 40
    assert set(table[table["metric"] == "calibration_ms"]["variant"]) == {"mse"}


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
