"""What every network of SDKD is: frames in, frames out, with the latent maps beside them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from stages.core import params as core


class Shape(core.Params):
    """Of the data: frames given and to forecast, channels, and the grid."""

    history: int = Field(ge=1)
    horizon: int = Field(ge=1)
    channels: int = Field(ge=1)
    height: int = Field(ge=4)
    width: int = Field(ge=4)


class Teacher(core.Params):
    """SimVP's shell (arXiv 2206.05099) with convolutions alone.

    `hidden_s`, `layers_s`: channels and convolutions of encoder and decoder; every second one
    changes the grid by a factor of two. `hidden_t`, `layers_t`: channels (the latent width) and
    blocks of the translator. `mlp_ratio`: width inside a block's MLP. `drop_path`: chance that the
    last block is skipped in training; earlier blocks less.
    """

    net: Literal["simvp"]
    hidden_s: int = Field(ge=2, multiple_of=2)
    layers_s: int = Field(ge=2, multiple_of=2)
    hidden_t: int = Field(ge=1)
    layers_t: int = Field(ge=1)
    mlp_ratio: float = Field(gt=0)
    drop_path: float = Field(ge=0, lt=1)


class Hybrid(Teacher):
    """The same with attention beside the convolution, or behind it."""

    net: Literal["alternet"]  # type: ignore[assignment]
    heads: int = Field(ge=1)
    mode: Literal["parallel", "serial"]

    @model_validator(mode="after")
    def _divides(self) -> Hybrid:
        if self.hidden_t % self.heads:
            raise ValueError(
                f"heads is {self.heads}, which does not divide hidden_t, {self.hidden_t}: each "
                "head takes as many of its channels"
            )
        return self


class UNetNumbers(core.Params):
    """`width`: channels at full size, doubled with each of `depth` halvings but the last, which
    leads to `latent` channels."""

    net: Literal["unet"]
    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    latent: int = Field(ge=1)


class ResNetNumbers(core.Params):
    """`latent`: channels between blocks, at full size; `hidden`: inside them."""

    net: Literal["resnet"]
    latent: int = Field(ge=1)
    hidden: int = Field(ge=1)
    blocks: int = Field(ge=1)


class MixerNumbers(core.Params):
    """`patch`: side of a patch; `latent`: channels of a token; `tokens`: width of its token MLP."""

    net: Literal["mixer"]
    patch: int = Field(ge=1)
    latent: int = Field(ge=1)
    tokens: int = Field(ge=1)
    blocks: int = Field(ge=1)


class Forecaster(nn.Module):
    """Maps (B, T, C, H, W) to the forecast (B, T', C, H, W) and the latent maps (B, K, h, w).

    Attributes:
        config: what `pipelines.sdkd.model.build` makes it from.
        latent: shape (K, h, w) of the latent maps.
    """

    config: dict[str, object]
    latent: tuple[int, int, int]

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def folded(self, x: Tensor) -> Tensor:
        """Time squeezed into channels: (B, T·C, H, W)."""
        return x.flatten(1, 2)

    def unfolded(self, y: Tensor) -> Tensor:
        """The inverse for forecasts: (B, T'·C, H, W) -> (B, T', C, H, W)."""
        return y.unflatten(1, (self.shape.horizon, self.shape.channels))
