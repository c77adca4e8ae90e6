"""Slices of a block against the whole block."""

from __future__ import annotations

import torch

from stages.bench.integer.slices import Slice
from stages.bench.kernels.block import Block
from tests.stages.quantize.specs import noise


def test_slices_give_what_the_block_gives() -> None:
    torch.manual_seed(0)
    block, x = Block(16, 4, 12).eval(), noise(1, 12, 16)
    y = block.norm1(x)[0]
    keys = block.to_k(y).unflatten(-1, (4, 4)).permute(1, 2, 0)
    values = block.to_v(y).unflatten(-1, (4, 4)).transpose(0, 1)
    parts = [Slice(block)(part, keys, values) for part in x.split(4, 1)]
    torch.testing.assert_close(torch.cat([p[0] for p in parts], 1), block(x))
    torch.testing.assert_close(torch.cat([p[1] for p in parts], 1)[0], block.to_k(y))
    torch.testing.assert_close(torch.cat([p[2] for p in parts], 1)[0], block.to_v(y))
