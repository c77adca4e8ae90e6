"""The networks trained here: built with diffusers' own classes, so that published ones fit too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import nn

from pipelines.foundations.video.denoiser import Denoiser
from stages.core import params as core
from stages.core.errors import UserError


class Numbers(core.Params):
    """
    Attributes:
        width: of a token.
        heads: of each attention; they share the width.
        layers: blocks (factorised: pairs of a spatial and a temporal block).
        patch: side of the square of pixels that becomes a token.
    """

    width: int = Field(ge=16, multiple_of=16)
    heads: int = Field(ge=1)
    layers: int = Field(ge=1)
    patch: int = Field(ge=1)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Numbers:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by {self.heads} heads")
        return self


class Factorised(Numbers):
    """Attention within a frame and to the text, then along each place's time: Latte's class."""

    net: Literal["latte"]


class Joint(Numbers):
    """Attention over all tokens of all frames and of the text at once: CogVideoX's class."""

    net: Literal["cogvideox"]


Trained = Annotated[Factorised | Joint, Field(discriminator="net")]


class Shape(core.Params):
    """What a network must know of clips and prompts; `words` counts the start token."""

    frames: int = Field(ge=1)
    channels: int = Field(ge=1)
    size: int = Field(ge=1)
    words: int = Field(ge=1)
    text: int = Field(ge=2, multiple_of=2)


def build(numbers: Factorised | Joint, shape: Shape) -> Denoiser:
    """A network with fresh weights, drawn from torch's global generator.

    Raises:
        UserError: frames cannot be cut into such patches.
    """
    if shape.size % numbers.patch:
        raise UserError(
            f"params.yaml: frames of {shape.size} pixels cannot be cut into patches of "
            f"{numbers.patch} (foundations.video.teach)"
        )
    net = (_latte if isinstance(numbers, Factorised) else _cogvideox)(numbers, shape)
    _initialise(net)
    return Denoiser(net)


def _latte(numbers: Numbers, shape: Shape) -> Any:
    from diffusers.models.transformers.latte_transformer_3d import LatteTransformer3DModel

    return LatteTransformer3DModel(
        num_attention_heads=numbers.heads,
        attention_head_dim=numbers.width // numbers.heads,
        in_channels=shape.channels,
        out_channels=shape.channels,
        num_layers=numbers.layers,
        cross_attention_dim=numbers.width,
        attention_bias=True,
        sample_size=shape.size,
        patch_size=numbers.patch,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=shape.text,
        video_length=shape.frames,
    )


def _cogvideox(numbers: Numbers, shape: Shape) -> Any:
    from diffusers.models.transformers.cogvideox_transformer_3d import (
        CogVideoXTransformer3DModel,
    )

    return CogVideoXTransformer3DModel(
        num_attention_heads=numbers.heads,
        attention_head_dim=numbers.width // numbers.heads,
        in_channels=shape.channels,
        out_channels=shape.channels,
        time_embed_dim=numbers.width,
        text_embed_dim=shape.text,
        num_layers=numbers.layers,
        sample_width=shape.size,
        sample_height=shape.size,
        sample_frames=shape.frames,
        patch_size=numbers.patch,
        temporal_compression_ratio=1,
        max_text_seq_length=shape.words,
        spatial_interpolation_scale=1.0,
        use_rotary_positional_embeddings=False,
    )


# Layers whose output scales, shifts or gates a block, or is added without a gate.
_SILENT = (
    ".norm1.linear", ".norm2.linear", "norm_out.linear", "adaln_single.linear",
    ".attn2.to_out.0", "proj_out",
)  # fmt: skip


def _initialise(net: nn.Module) -> None:
    """Start as DiT does [Peebles & Xie 2023, section 3.2]: blocks that change nothing, output 0."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.data.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(_SILENT):
                nn.init.zeros_(module.weight)
    for name, parameter in net.named_parameters():
        if name.endswith("scale_shift_table"):
            nn.init.zeros_(parameter)
