"""One signature for diffusers' video transformers, whose own layouts and arguments differ."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipelines.foundations.video.text import Text
from stages.core.errors import UserError

FAMILIES = {
    "LatteTransformer3DModel": "latte",
    "CogVideoXTransformer3DModel": "cogvideox",
    "WanTransformer3DModel": "wan",
    "HunyuanVideoTransformer3DModel": "hunyuan",
}
"""Classes of diffusers, and what we call their families."""


class Denoiser(nn.Module):
    """A video transformer of diffusers, called as denoiser(x, t, text).

    Attributes:
        net: the transformer itself, whose linear layers are quantized by name.
        family: a value of `FAMILIES`.
        strength: guidance that the network takes as an input, where it was distilled to do so
            (HunyuanVideo); None otherwise.
    """

    def __init__(self, net: Any, strength: float | None = None) -> None:
        super().__init__()
        name = type(net).__name__
        if name not in FAMILIES:
            raise UserError(f"{name} is no video transformer known here: {', '.join(FAMILIES)}")
        self.net = net
        self.family = FAMILIES[name]
        self.strength = strength

    def forward(self, x: Tensor, t: Tensor, text: Text) -> Tensor:
        """
        Args:
            x: noisy clips or latents, (B, T, C, H, W).
            t: time steps, (B,).
            text: of B prompts.

        Returns:
            What the network predicts (velocity, noise or flow), (B, T, C, H, W).
        """
        return getattr(self, f"_{self.family}")(x, t, text)  # type: ignore[no-any-return]

    def _latte(self, x: Tensor, t: Tensor, text: Text) -> Tensor:
        out = self.net(
            x.transpose(1, 2),
            timestep=t,
            encoder_hidden_states=text.tokens,
            encoder_attention_mask=_bias(text, x),
            return_dict=False,
        )[0]
        # The published network also predicts a variance, in the second half of its channels.
        return out[:, : x.shape[2]].transpose(1, 2)  # type: ignore[no-any-return]

    def _cogvideox(self, x: Tensor, t: Tensor, text: Text) -> Tensor:
        """Text that fills up is attended to like any other: the published networks have no mask."""
        return self.net(  # type: ignore[no-any-return]
            x,
            encoder_hidden_states=text.tokens,
            timestep=t,
            image_rotary_emb=self._rotary(x),
            return_dict=False,
        )[0]

    def _wan(self, x: Tensor, t: Tensor, text: Text) -> Tensor:
        out = self.net(x.transpose(1, 2), t, text.tokens, return_dict=False)[0]
        return out.transpose(1, 2)  # type: ignore[no-any-return]

    def _hunyuan(self, x: Tensor, t: Tensor, text: Text) -> Tensor:
        strength = None if self.strength is None else x.new_full((len(x),), 1000 * self.strength)
        out = self.net(
            x.transpose(1, 2),
            timestep=t,
            encoder_hidden_states=text.tokens,
            encoder_attention_mask=text.mask,
            pooled_projections=text.pooled,
            guidance=strength,
            return_dict=False,
        )[0]
        return out.transpose(1, 2)  # type: ignore[no-any-return]

    def _rotary(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the rotary embedding of CogVideoX, where the network uses one."""
        config = self.net.config
        if not config.use_rotary_positional_embeddings:
            return None
        from diffusers.models.embeddings import get_3d_rotary_pos_embed
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        patch, across = config.patch_size, config.patch_size_t
        grid = (x.shape[3] // patch, x.shape[4] // patch)
        base = (config.sample_height // patch, config.sample_width // patch)
        if across is None:
            region = get_resize_crop_region_for_grid(grid, base[1], base[0])
            how: dict[str, Any] = {"crops_coords": region, "temporal_size": x.shape[1]}
        else:
            frames = -(-x.shape[1] // across)
            how = {"crops_coords": None, "temporal_size": frames, "grid_type": "slice"}
            how["max_size"] = base
        return get_3d_rotary_pos_embed(  # type: ignore[no-any-return]
            embed_dim=config.attention_head_dim, grid_size=grid, device=x.device, **how
        )


def _bias(text: Text, x: Tensor) -> Tensor | None:
    """What Latte's cross-attention adds to its scores for each frame: (B·T, 1, L) or None.

    The class repeats the prompts for its frames, but not their mask.
    """
    if text.mask is None:
        return None
    bias = (1 - text.mask.to(x.dtype)) * -10_000.0
    return bias.repeat_interleave(x.shape[1], 0)[:, None]
