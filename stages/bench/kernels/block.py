"""One block of a published video transformer with random weights, to be timed.

Attention and the two layers after it, which hold most of the time: without modulation, whose layers
see one vector a step, and without attention to text, or, where space and time are apart, the second
one. Attention is written so that a runtime which fuses nothing computes it too; its scores are then
stored, (heads, n, n), and limit how many tokens fit into memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """(B, tokens, width) -> the same.

    Attributes:
        attended: so many neighbouring tokens attend to each other, a frame's say.
    """

    def __init__(self, width: int, heads: int, attended: int) -> None:
        """With weights as `nn.Linear` draws them, from torch's global generator.

        Raises:
            ValueError: heads do not divide the width.
        """
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads, self.attended = heads, attended
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(width, width) for _ in range(4))
        self.ff = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (self._heads(layer(y)) for layer in (self.to_q, self.to_k, self.to_v))
        scores = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
        x = x + self.to_out((scores @ v).transpose(-3, -2).reshape(x.shape))
        out: Tensor = x + self.ff(self.norm2(x))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """(B, tokens, width) -> (B, tokens / attended, heads, attended, width / heads)."""
        cut = x.unflatten(1, (-1, self.attended)).unflatten(-1, (self.heads, -1))
        return cut.transpose(-3, -2)


def macs(width: int, tokens: int, attended: int) -> int:
    """Multiply-accumulates of a block: its layers' and its attention's."""
    return 12 * tokens * width**2 + 2 * tokens * attended * width
