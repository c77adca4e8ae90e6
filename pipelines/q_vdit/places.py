"""Where frames lie in the inputs of a layer of Latte's factorised network.

Its spatial blocks fold frames into the rows, (B·T, S, C), its temporal ones the places of a frame,
(B·S, T, C). Keys and values of the attention to the text see words, which belong to no frame.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

SPATIAL, TEMPORAL = "net.transformer_blocks.", "net.temporal_transformer_blocks."

Place = Literal["rows", "tokens", "nowhere"]
"""Which axis runs over frames: the first one, within a sample, or the second."""


def place_of(name: str) -> Place:
    """Where the frames of the layer `name` of a `Denoiser` are.

    Raises:
        ValueError: the layer is in no block.
    """
    if name.startswith(TEMPORAL):
        return "tokens"
    if not name.startswith(SPATIAL):
        raise ValueError(f"'{name}' is no layer of a spatial or temporal block")
    return "nowhere" if name.endswith((".attn2.to_k", ".attn2.to_v")) else "rows"


def temporal_attention(name: str) -> bool:
    """Whether the layer `name` belongs to the attention along time."""
    return name.startswith(TEMPORAL) and ".attn" in name


def scaled(values: Tensor, gain: Tensor, place: Place) -> Tensor:
    """Values (rows, n), one a token, times the gain (T,) of each token's frame."""
    if place == "rows":
        return (values.unflatten(0, (-1, len(gain))) * gain[:, None]).flatten(0, 1)
    return values * gain


def slabs(x: Tensor, frames: int, place: Place, samples: int) -> Tensor:
    """Inputs (rows, n, C) of `samples` clips as (samples, T, N): all that is of one frame."""
    if place == "rows":
        return x.reshape(samples, frames, -1)
    return x.unflatten(0, (samples, -1)).transpose(1, 2).flatten(2)
