"""The least time of a layer by hand, and a measurement of limits, small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from stages.bench.kernels.roofline import Limits, held_bits, measure, random_layer
from stages.bench.latency import Plan
from stages.quantize.layers import QuantLinear
from tests.stages.quantize.specs import inputs, weights

LIMITS = Limits(threads=1, float_gops=100.0, integer_gops=400.0, gigabytes=20.0)


def layer(rows: int, columns: int, bits: int = 4) -> QuantLinear:
    with torch.device("meta"):
        return QuantLinear(nn.Linear(columns, rows), weights(bits=bits), inputs())


def test_many_tokens_are_limited_by_arithmetic() -> None:
    made = layer(1000, 1000)
    assert LIMITS.least_ms(made, 1000, "full") == pytest.approx(2e9 / 100e9 * 1e3)
    assert LIMITS.least_ms(made, 1000, "exact") == pytest.approx(2e9 / 400e9 * 1e3)
    assert not LIMITS.by_reading(made, 1000, "full")


def test_one_token_is_limited_by_reading_its_weight() -> None:
    made = layer(1000, 1000)
    for kernel, weight in (("full", 4e6), ("exact", 1e6), ("tensor", 1e6), ("blocks", 0.5e6)):
        least = (weight + 4 * 2000) / 20e9 * 1e3
        assert LIMITS.least_ms(made, 1, kernel) == pytest.approx(least)
        assert LIMITS.by_reading(made, 1, kernel)


def test_bits_in_memory() -> None:
    assert [held_bits(layer(4, 4, bits), "blocks") for bits in (3, 4, 6, 8)] == [4, 4, 8, 8]
    assert held_bits(layer(4, 4), "full") == 32


def test_random_layers_have_their_shape_and_no_structure() -> None:
    torch.manual_seed(0)
    made = random_layer(300, 400, weights(), inputs())
    assert (made.out_features, made.in_features) == (300, 400)
    assert made.weight.std().item() == pytest.approx(0.05, rel=0.02)


def test_limits_are_measured(tmp_path: Path) -> None:
    rounds: list[int] = []
    found = measure(
        tmp_path, 1, Plan(1, 3, 1), lambda: rounds.append(1), arithmetic=[(64, 128)], reading=256
    )
    assert found.threads == 1 and len(rounds) == 2
    assert min(found.float_gops, found.integer_gops, found.gigabytes) > 0.1
    assert not list(tmp_path.iterdir()), "files of that size are not to stay"
