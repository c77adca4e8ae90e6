"""What is cut together when channels are removed.

A channel that leaves a network takes entries of many tensors with it: the row of the
convolution that makes it, its bias, its norm's gain and shift, its depth-wise filters, and the
column of every layer that reads it. A `ChannelGroup` lists them all, so that masks, scores and
surgery agree on what one channel is, and nothing is left to fresh initial values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Slice:
    """The part of one parameter that belongs to a group.

    Entry `offset + c` along dimension `dim` of the tensor named `parameter` (a key of the
    module's state dict) belongs to channel `c`.
    """

    parameter: str
    dim: int
    offset: int = 0


@dataclass(frozen=True)
class ChannelGroup:
    """`size` channels that can be removed one by one, each as a whole.

    Attributes:
        name: Unique in its network; the key of masks, keep sets and widths.
        size: How many channels the group has now.
        producer: Name of the module whose output channels these are.
        slices: Every parameter that has entries for these channels.
        norms: Names of the norms that pool statistics over exactly these channels. Each has an
            attribute `mask` (None, or a tensor of `size` values).
    """

    name: str
    size: int
    producer: str
    slices: tuple[Slice, ...]
    norms: tuple[str, ...]


def parameters_per_channel(group: ChannelGroup, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Counts the parameters that leave the network with one channel of the group.

    Where one parameter is touched by two groups at once (the cut of one shortens the other's
    slices), the count holds for the shapes given.

    Args:
        group: The group.
        shapes: Shape of each parameter by name, as in `{k: tuple(v.shape)}` of a state dict.

    Raises:
        KeyError: A slice names a parameter that `shapes` lacks.
    """
    total = 0
    for piece in group.slices:
        per_entry = 1
        for dim, length in enumerate(shapes[piece.parameter]):
            if dim != piece.dim:
                per_entry *= length
        total += per_entry
    return total
