"""Which layers get how many bits: the paper's mix, and all layers alike.

"W3A6" in the paper's tables is not all 3 and 6 bits: the two linear layers of every feed-forward
network keep 8, in weights and in activations (the release's lists of mixed precision). Both
readings are here, and true average bits go with each result.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.q_vdit.places import SPATIAL, TEMPORAL
from stages.core.errors import UserError
from stages.quantize import mixed
from stages.quantize.grids import Grid
from stages.quantize.layers import quantized
from stages.quantize.mixed import Width
from stages.quantize.quantizers import InputSpec, WeightSpec
from stages.quantize.swap import Rule, module_names

BLOCKS = "net.*transformer_blocks.*"
"""Layers that are quantized. Embedders of patches, time and text and the last layer are not."""
FEED_FORWARD = "net.*transformer_blocks.*.ff.*"
KEPT = 8
"""Bits of the feed-forward networks in the paper's mix."""

WEIGHTS = WeightSpec(
    grid=Grid(bits=8, symmetric=False, granularity="channel", group=None, dynamic=False),
    clip="searched",
    norm=2.0,
    rounding="nearest",
)
"""The base quantizer of all arms: asymmetric by output channel, the clip by squared error, steps
then trained and zero points not (section 3 and the release's settings)."""
INPUTS = InputSpec(
    grid=Grid(bits=8, symmetric=False, granularity="token", group=None, dynamic=True),
    clip="max",
)
"""Asymmetric, from the least to the largest entry of each token, at every call."""


@dataclass(frozen=True)
class Cell:
    """One column of the paper's tables.

    Attributes:
        name: such as W3A6-mix or W3A6-all.
        weights, inputs: bits; None is full precision.
        mix: whether feed-forward networks keep 8 bits.
    """

    name: str
    weights: int
    inputs: int | None
    mix: bool

    @classmethod
    def parse(cls, name: str) -> Cell:
        """
        Raises:
            UserError: the name is no cell.
        """
        bits, _, reading = name.partition("-")
        if reading not in ("mix", "all"):
            raise UserError(
                f"'{name}' is no cell of q_vdit: write W3A6-mix (feed-forward at {KEPT} bits, as "
                "in the paper) or W3A6-all (every layer alike)"
            )
        return cls(name, *mixed.parse(bits), mix=reading == "mix")

    @property
    def rules(self) -> tuple[Rule, ...]:
        """For `stages.quantize.swap.swap` on a `Denoiser`."""
        widths = [Width(pattern=BLOCKS, weights=self.weights, inputs=self.inputs)]
        if self.mix:
            inputs = None if self.inputs is None else KEPT
            widths.insert(0, Width(pattern=FEED_FORWARD, weights=KEPT, inputs=inputs))
        return mixed.plan(widths, WEIGHTS, INPUTS)


def check_family(denoiser: Denoiser) -> None:
    """
    Raises:
        UserError: frames are not apart in the network's layers, so M has no meaning.
    """
    if denoiser.family != "latte":
        raise UserError(
            f"q_vdit quantizes networks with attention in space and in time apart; "
            f"'{denoiser.family}' attends to both at once, see s2q_vdit"
        )


def layers(model: nn.Module) -> list[str]:
    """Names of the blocks' linear layers, quantized or not, in the order of the modules."""
    ours = {name for name in (*quantized(model), *module_names(model)) if fnmatchcase(name, BLOCKS)}
    return [name for name, _ in model.named_modules() if name in ours]


def blocks(model: nn.Module) -> list[str]:
    """Names of the blocks in the order in which they run: in space, in time, in space …"""
    depth = len(list(model.get_submodule(SPATIAL.rstrip(".")).children()))
    return [f"{kind}{place}" for place in range(depth) for kind in (SPATIAL, TEMPORAL)]
