"""Learnable channel masks: a noisy threshold forward, a straight-through gradient backward.

SepPrune (arXiv 2505.12079), equations 5 and 6. Equation 5 prints a softmax over the channels of a
layer, which cannot work with a threshold of 0.7 (no entry of a softmax over hundreds of channels
comes near it); the authors' private code, as audited elsewhere, has a sigmoid per channel with one
Gumbel draw, which is what `probabilities` does. `softmax_as_printed` exists for the comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stages.prune.groups import ChannelGroup

Masks = Mapping[str, Tensor]
"""Group name -> (C,) tensor."""


def gumbel(size: int, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise g = -log(-log U), shape (size,), drawn on the CPU."""
    uniform = torch.rand(size, generator=generator)
    return -torch.log(-torch.log(uniform.clamp_min(torch.finfo(uniform.dtype).tiny)))


def probabilities(alpha: Tensor, noise: Tensor, tau: float) -> Tensor:
    """Per-channel binary concrete: sigmoid((alpha + g) / tau), shape (C,)."""
    return torch.sigmoid((alpha + noise) / tau)


def softmax_as_printed(alpha: Tensor, noise: Tensor, tau: float) -> Tensor:
    """Equation 5 as printed: softmax((log alpha + g) / tau) over the channels, shape (C,)."""
    return torch.softmax((torch.log(alpha) + noise) / tau, dim=0)


class _Sign(torch.autograd.Function):
    """sign with values -1 and 1 only; backward hands on the gradient clipped to [-1, 1]."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        return torch.where(values > 0, 1.0, -1.0).to(values.dtype)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0].clamp(-1.0, 1.0)


def threshold(pi: Tensor, eps: float) -> Tensor:
    """Equation 6: m = (sign(pi - eps) + 1) / 2, in {0, 1}, straight-through backward."""
    signs: Tensor = _Sign.apply(pi - eps)
    return (signs + 1) / 2


def draw(alpha: Tensor, noise: Tensor, tau: float, eps: float) -> Tensor:
    """One mask (C,) in {0, 1}: `threshold` of `probabilities`."""
    return threshold(probabilities(alpha, noise, tau), eps)


@contextmanager
def masked(model: nn.Module, groups: Sequence[ChannelGroup], masks: Masks) -> Iterator[None]:
    """Within the block, every norm that a group names sees only the kept channels.

    Statistics are taken over kept channels, and the net zeroes the others once, just before
    channels are mixed. So the masked net computes what the physically cut net computes (a mask
    after the norm would not: removed channels would still count in its mean and variance).

    Args:
        model: the full-size net.
        groups: its channel groups.
        masks: group name -> (C,), 0 or 1; may carry a gradient. Every group must have one.
    """
    norms: list[tuple[Any, Tensor]] = [
        (model.get_submodule(norm), masks[group.name]) for group in groups for norm in group.norms
    ]
    try:
        for norm, mask in norms:
            norm.mask = mask
        yield
    finally:
        for norm, _ in norms:
            norm.mask = None


def kept(masks: Masks, scores: Masks) -> dict[str, Tensor]:
    """The literal rule: the channels that a drawn mask keeps, whatever number that is.

    Args:
        masks: group name -> (C,) in {0, 1}; the released code takes the last forward draw.
        scores: group name -> (C,); an empty layer would break the net, so a group whose mask is
            all zero keeps its best-scored channel.

    Returns:
        Group name -> sorted int64 indices.
    """
    chosen = {}
    for name, mask in masks.items():
        index = torch.nonzero(mask > 0.5).flatten()
        chosen[name] = index if len(index) else scores[name].argmax().reshape(1)
    return chosen


def jaccard(first: Masks, second: Masks) -> float:
    """Kept in both over kept in either, all groups together; 1 for equal masks."""
    both = sum(int(((first[n] > 0.5) & (second[n] > 0.5)).sum()) for n in first)
    either = sum(int(((first[n] > 0.5) | (second[n] > 0.5)).sum()) for n in first)
    return both / either if either else 1.0
