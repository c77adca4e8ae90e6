"""What must be known of a video transformer to quantize it block by block, by its family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.foundations.video.denoiser import Denoiser
from stages.core.errors import UserError

if TYPE_CHECKING:
    from stages.quantize.capture import Place


@dataclass(frozen=True)
class Layout:
    """How a family's blocks are built.

    Attributes:
        blocks: lists of blocks that diffusers' class holds.
        attention: of a block: where its video tokens attend to each other, and to the text where
            that is joint.
        text_first: whether text stands before video among that attention's tokens.
        shared: arguments of a block that are no sample's own: tables of rotary embeddings.
    """

    blocks: tuple[str, ...]
    attention: str
    text_first: bool
    shared: tuple[Place, ...]


LAYOUTS = {
    "cogvideox": Layout(("transformer_blocks",), "attn1", True, ("image_rotary_emb",)),
    "hunyuan": Layout(("transformer_blocks", "single_transformer_blocks"), "attn", False, (4,)),
    "wan": Layout(("blocks",), "attn1", True, (3,)),
}
"""Families in which the video's tokens attend to each other over all frames at once."""


def layout(denoiser: Denoiser) -> Layout:
    """
    Raises:
        UserError: attention of this family is factorised, so a token has no place among all.
    """
    if denoiser.family not in LAYOUTS:
        raise UserError(
            f"S²Q-VDiT weighs tokens by attention over all frames; '{denoiser.family}' attends "
            f"within a frame. Take a teacher of {', '.join(LAYOUTS)}"
        )
    return LAYOUTS[denoiser.family]


def block_names(denoiser: Denoiser) -> list[str]:
    """Names of all transformer blocks, in the order they are run."""
    found = []
    for group in layout(denoiser).blocks:
        blocks = denoiser.get_submodule(f"net.{group}")
        found += [f"net.{group}.{name}" for name, _ in blocks.named_children()]
    return found


def patches(denoiser: Denoiser, x: Tensor) -> Tensor:
    """Latents as the tokens that the network cuts them into.

    Args:
        x: (…, T, C, H, W).

    Returns:
        (…, n, d), where d entries of one patch of C channels make a token.
    """
    config = denoiser.net.config
    size = config.patch_size
    if isinstance(size, int):
        size = (getattr(config, "patch_size_t", None) or 1, size, size)
    frames, height, width = size
    parts = x.unflatten(-1, (-1, width)).unflatten(-3, (-1, height)).unflatten(-6, (-1, frames))
    # (…, t, frames, C, h, height, w, width) -> (…, t, h, w, frames, C, height, width)
    lead = list(range(x.ndim - 4))
    first = len(lead)
    order = [first + k for k in (0, 3, 5, 1, 2, 4, 6)]
    return parts.permute(*lead, *order).flatten(first, first + 2).flatten(-4)


def of_video(output: object) -> Tensor:
    """The video's tokens (B, n, d) of what a block gives."""
    first = output[0] if isinstance(output, tuple) else output
    assert isinstance(first, Tensor)
    return first


def of_text(output: object) -> Tensor | None:
    """The text's tokens (B, L, d) of what a block gives; None where it gives the video's alone."""
    return output[1] if isinstance(output, tuple) and len(output) > 1 else None


def video_first(columns: Tensor, text: int, text_first: bool) -> Tensor:
    """A value for each token of an attention, (…, L + n), with the video's n in front.

    Args:
        text: L.
        text_first: see `Layout`.
    """
    if not text_first or not text:
        return columns
    return torch.cat([columns[..., text:], columns[..., :text]], -1)
