"""Low rank in front of the quantizer and beside it.

In front (`Inner`): Q(W + B·A), which costs nothing at run time (EfficientDM, arXiv 2310.03270).
Beside (`Beside`): X·Q(R)ᵀ + (X·downᵀ)·upᵀ, where R = W - up·down is what is quantized and the two
thin matrices stay in full precision (SVDQuant, arXiv 2411.05007).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stages.quantize.layers import QuantLinear


class Inner(nn.Module):
    """B·A, (out, in), to be added to a weight before it is quantized; zero at the start.

    A starts as Kaiming's uniform noise, B at zero, so that the layer starts where it was.
    """

    def __init__(self, outputs: int, inputs: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        _check_rank(rank, outputs, inputs)
        bound = 1 / math.sqrt(inputs)
        start = torch.rand(rank, inputs, generator=generator) * 2 * bound - bound
        self.down = nn.Parameter(start)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self) -> Tensor:
        return self.up @ self.down


class Beside(nn.Module):
    """(…, in) -> (…, out) through `rank` channels, added to a quantized layer's output."""

    def __init__(self, up: Tensor, down: Tensor) -> None:
        """`up` is (out, rank), `down` is (rank, in)."""
        super().__init__()
        # A file keeps no memory layout, and another layout sums in another order.
        self.up, self.down = (
            nn.Parameter(part.detach().clone().contiguous()) for part in (up, down)
        )

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.down.mT) @ self.up.mT


def split(weight: Tensor, rank: int) -> tuple[Tensor, Beside]:
    """A weight as what is left to quantize and the `rank` largest singular directions.

    No other matrix of that rank leaves less in the Frobenius norm (Eckart and Young): the square of
    what is left is the sum of the other singular values' squares. SVDQuant takes the smoothed
    weight here, since there smoothing has moved the activations' outliers into it.

    Args:
        weight: (out, in), after its transform.

    Returns:
        The residual R, (out, in), and the branch, with R + up·down = weight.
    """
    _check_rank(rank, *weight.shape)
    u, s, v = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    root = s[:rank].sqrt()
    up, down = u[:, :rank] * root, root[:, None] * v[:rank]
    branch = Beside(up.to(weight.dtype), down.to(weight.dtype))
    return weight.detach() - branch.up.detach() @ branch.down.detach(), branch


class Less(nn.Module):
    """-(up·down) of a branch as it is now: the inner part that leaves the residual to quantize."""

    def __init__(self, branch: Beside) -> None:
        super().__init__()
        self.value = nn.Buffer(-(branch.up.detach() @ branch.down.detach()))

    def forward(self) -> Tensor:
        return self.value


def put_beside(layer: QuantLinear, rank: int) -> None:
    """Give a layer the branch of its transformed weight, and quantize what is left.

    In SVDQuant the branch meets the inputs in 16 bits, before they are quantized; a `QuantLinear`
    gives it the quantized ones. The rest is as published.

    Raises:
        ValueError: the layer has an inner or a side branch already.
    """
    if layer.inner is not None or layer.beside is not None:
        raise ValueError("the layer has a branch already")
    _, branch = split(layer.target(), rank)
    layer.inner, layer.beside = Less(branch), branch
    layer.calibrate()


def scale_aware_rate(scale: Tensor, divisor: float) -> float:
    """The learning rate of an inner branch, in proportion to its layer's quantization step.

    A change of W + B·A matters where it carries a weight over half a step, so layers with large
    steps learn faster (EfficientDM, arXiv 2310.03270; the release of MPQ-DM divides by 2500).

    Args:
        scale: the layer's steps, of whichever rows share its bits.
    """
    return float(scale.detach().mean()) / divisor


def _check_rank(rank: int, outputs: int, inputs: int) -> None:
    if not 1 <= rank <= min(outputs, inputs):
        raise ValueError(f"rank {rank} does not suit a weight of {outputs} × {inputs}")
