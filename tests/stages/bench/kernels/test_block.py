"""A block's attention against torch's own, its reach, its arithmetic, and that it deploys."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stages.bench.export import agreement
from stages.bench.kernels.block import Block, macs
from stages.bench.kernels.deploy import export
from stages.bench.kernels.kinds import computing
from stages.quantize.layers import quantized
from stages.quantize.swap import Rule, swap
from tests.stages.quantize.specs import inputs, noise, weights


def block(attended: int = 6) -> Block:
    torch.manual_seed(0)
    return Block(16, 4, attended).eval()


def by_torch(net: Block, x: Tensor) -> Tensor:
    """With scaled_dot_product_attention, each run of `attended` tokens by itself."""
    parts = []
    for run in net.norm1(x).split(net.attended, 1):
        q, k, v = (
            layer(run).unflatten(-1, (4, 4)).transpose(1, 2)
            for layer in (net.to_q, net.to_k, net.to_v)
        )
        parts.append(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    y = x + net.to_out(torch.cat(parts, 1))
    out: Tensor = y + net.ff(net.norm2(y))
    return out


@pytest.mark.parametrize("attended", [12, 6, 1])
def test_attention_is_torchs(attended: int) -> None:
    net, x = block(attended), noise(2, 12, 16)
    torch.testing.assert_close(net(x), by_torch(net, x))


def test_tokens_do_not_reach_beyond_their_run() -> None:
    net, x = block(6), noise(1, 12, 16)
    moved = x.clone()
    moved[:, 3] += 1
    changed = (net(moved) != net(x)).any(-1)[0]
    assert changed.tolist() == [True] * 6 + [False] * 6


def test_arithmetic_is_what_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        block(6)(noise(1, 12, 16))
    assert counter.get_total_flops() == 2 * macs(16, 12, 6)


def test_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        Block(16, 3, 4)


def test_it_runs_on_integers(tmp_path: Path) -> None:
    net, x = block(), noise(1, 12, 16)
    swap(net, [Rule(pattern="*", weights=weights(), inputs=inputs())])
    assert len(quantized(net)) == 6
    export(net, (x,), tmp_path / "block.onnx", ["x"], ["y"], "exact", saturating=True)
    with computing(net, "exact"):
        agreement(net, tmp_path / "block.onnx", [(x,)], 1e-4)
