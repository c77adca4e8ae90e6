"""True bits: by hand, by the file, and at a published layer's shape."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stages.quantize.bits import Ledger, stored, weight_bits
from stages.quantize.shared import share
from stages.quantize.store import load, save
from stages.quantize.swap import Rule, swap
from tests.stages.quantize.specs import Net, Scaled, Thin, grid, inputs, weights


def test_one_layer_by_hand() -> None:
    net = nn.Sequential(nn.Linear(10, 3), nn.LayerNorm(3))
    layers = swap(net, [Rule(pattern="0", weights=weights(bits=3), inputs=inputs(clip="learned"))])
    layers["0"].transform = Scaled(torch.ones(10))
    layers["0"].beside = Thin(10, 3)
    found = stored(net, dense=True)
    assert found.ledger == Ledger(
        codes=8 * 12,  # 30 codes of 3 bits: 90 bits in 12 bytes
        scales=3 * 32,
        zeros=8 * 2,  # 3 of 3 bits
        biases=3 * 32,
        inputs=2 * 32,
        transforms=10 * 32,
        beside=13 * 32,
        full=6 * 32,
    )
    assert (found.weights, found.values) == (30, 30 + 3 + 6)
    assert found.ledger.total == sum(asdict(found.ledger).values())
    assert found.per_weight == (96 + 96 + 16 + 64 + 320 + 416) / 30
    assert found.compression(32) == 32 * 39 / found.ledger.total
    half = stored(net, floats=16, dense=False).ledger
    assert (half.codes, half.zeros, half.scales, half.full) == (15 * 8, 2 * 8, 3 * 16, 6 * 16)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        {"bits": 3},
        {"bits": 6, "symmetric": True},
        {"bits": 5, "granularity": "group", "group": 4},
        {"bits": 4, "granularity": "tensor"},
    ],
    ids=lambda s: f"{s['bits']}",
)
def test_the_ledger_is_the_file(tmp_path: Path, shape: dict[str, Any], dense: bool) -> None:
    net = Net()
    layers = swap(
        net,
        [
            Rule(pattern="*.ff.*", weights=weights(**shape), inputs=None),
            Rule(pattern="blocks.*", weights=weights(bits=8), inputs=inputs(clip="learned")),
        ],
    )
    layers["blocks.0.to_q"].transform = Scaled(torch.ones(8))
    layers["blocks.1.ff.0"].beside = Thin(8, 16)
    share([layers["blocks.0.to_q"], layers["blocks.0.to_out.0"]])
    save(net, tmp_path / "net.safetensors", dense=dense)
    tensors = load_file(tmp_path / "net.safetensors").values()
    assert stored(net, dense=dense).ledger.total == 8 * sum(t.nbytes for t in tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_scale_counts_as_it_is_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    """Of a double model in 64 bits; static, dynamic and loaded ones alike."""
    net = Net().to(dtype)
    rules = [
        Rule(pattern="blocks.0.*", weights=weights(symmetric=True, dynamic=True), inputs=None),
        Rule(pattern="blocks.*", weights=weights(), inputs=None),
    ]
    swap(net, rules)
    path = tmp_path / "net.safetensors"
    for model in (net, net.to(torch.float32)):
        save(model, path, dense=True)
        size = 8 * sum(t.nbytes for t in load_file(path).values())
        assert stored(model, dense=True).ledger.total == size
        fresh = Net().to(dtype)
        load(fresh, path)
        save(fresh, path, dense=True)
        size = 8 * sum(t.nbytes for t in load_file(path).values())
        assert stored(fresh, dense=True).ledger.total == size


def test_a_published_layer_is_close_to_its_nominal_bits() -> None:
    g = grid(bits=4, symmetric=True)
    ledger = weight_bits(12288, 3072, g, floats=16, dense=True)
    assert ledger.codes == 4 * 12288 * 3072 and ledger.zeros == 0
    assert ledger.total / (12288 * 3072) == pytest.approx(4 + 16 / 3072)
    grouped = grid(bits=4, granularity="group", group=128)
    ledger = weight_bits(12288, 3072, grouped, floats=16, dense=True)
    assert ledger.total / (12288 * 3072) == pytest.approx(4 + (16 + 4) / 128)


def test_shapes_are_enough() -> None:
    with torch.device("meta"):
        net = Net(width=1024, depth=4)
    swap(net, [Rule(pattern="blocks.*", weights=weights(symmetric=True), inputs=inputs())])
    found = stored(net, floats=16, dense=True)
    assert found.weights == 4 * 6 * 1024**2
    assert 3.9 < found.compression(16) < 4.0
