"""Some tokens of a clip in a block, which attend to all of the clip.

At a published clip's size a block's scores do not fit into memory. But its layers see one token
after the other, and the rows of its attention are independent: a block of n tokens is n / m slices
of m queries, each against all n keys and values. One slice is timed; keys and values are given, as
the other slices would have made them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.bench.kernels.block import Block


class Slice(nn.Module):
    """(1, m, width), keys (heads, d, n), values (heads, n, d) -> (1, m, width), and the m tokens'
    own queries, keys and values likewise, so that nothing of the work is left out."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        block = self.block
        y = block.norm1(x)
        query, key, value = (layer(y) for layer in (block.to_q, block.to_k, block.to_v))
        heads = query[0].unflatten(-1, (block.heads, -1)).transpose(0, 1)
        scores = torch.softmax(heads @ keys / heads.shape[-1] ** 0.5, -1)
        x = x + block.to_out((scores @ values).transpose(0, 1).reshape(x.shape))
        return x + block.ff(block.norm2(x)), key, value
