"""Which layers get how many bits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.s2q_vdit.base import Base
from pipelines.s2q_vdit.nets import block_names, layout
from stages.core.params import Params
from stages.quantize import mixed
from stages.quantize.layers import QuantLinear, quantized
from stages.quantize.mixed import Width
from stages.quantize.swap import module_names, swap


class Layers(Params):
    """Linear layers of a block that are quantized.

    Attributes:
        pattern: of names within a block, such as `attn1.*`; the first that matches counts.
        inputs: whether their inputs are quantized too.
    """

    pattern: str
    inputs: bool


def prepare(
    denoiser: Denoiser, layers: Sequence[Layers], base: Base, bits: str
) -> dict[str, QuantLinear]:
    """Put quantized layers, without transforms yet, in the place of a denoiser's.

    Args:
        layers: of every block, and nothing outside the blocks.
        bits: such as W4A6.

    Raises:
        UserError: a pattern matches nothing, or a group does not divide a layer's width.
    """
    weights, inputs = mixed.parse(bits)
    widths = [
        Width(
            pattern=f"net.{group}.*.{each.pattern}",
            weights=weights,
            inputs=inputs if each.inputs else None,
        )
        for each in layers
        for group in layout(denoiser).blocks
    ]
    return swap(denoiser, mixed.plan(widths, base.weights(), base.inputs()))


def linears(denoiser: Denoiser) -> list[str]:
    """Names of all linear layers of the blocks, quantized or not."""
    return [name for block in block_names(denoiser) for name in _inside(denoiser, block)]


def _inside(model: nn.Module, block: str) -> list[str]:
    inside = model.get_submodule(block)
    return [f"{block}.{name}" for name in (*quantized(inside), *module_names(inside))]
