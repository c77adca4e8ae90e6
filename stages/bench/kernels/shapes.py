"""Shapes of the linear layers of published video transformers. No weights are needed for times.

Open-Sora 1.0's STDiT-XL/2 (its query, key and value as the quantized release keeps them, apart),
Latte-XL/2 (class-conditional), and diffusers' CogVideoX-2b, CogVideoX-5b and HunyuanVideo, from
their public code and configurations. Listed are the layers of the transformer blocks, timestep
modulation included; `others` counts what the networks hold beside these layers' weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stages.quantize.bits import weight_bits
from stages.quantize.grids import Grid

Sees = Literal["video", "text", "both", "step"]
"""Which tokens enter a layer; `step` is the one vector of a time step."""


@dataclass(frozen=True)
class Shape:
    """Layers of one shape: `count` of them, weights (rows, columns)."""

    name: str
    rows: int
    columns: int
    count: int
    sees: Sees = "video"

    @property
    def weights(self) -> int:
        return self.rows * self.columns * self.count


@dataclass(frozen=True)
class Published:
    """A published network.

    Attributes:
        video: tokens of one clip at the published size, `clip` in words.
        text: tokens of a prompt.
        width: of a token.
        heads: of the attention.
        attended: tokens that attend to each other in the largest attention.
        layers: of all blocks.
        others: parameters of the network that are no weights of `layers`.
    """

    name: str
    clip: str
    video: int
    text: int
    width: int
    heads: int
    attended: int
    layers: tuple[Shape, ...]
    others: int

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    def tokens(self, layer: Shape) -> int:
        """Tokens that enter a layer in one evaluation for one clip."""
        both = self.video + self.text
        return {"video": self.video, "text": self.text, "both": both, "step": 1}[layer.sees]

    def attention_gb(self, attended: int) -> float:
        """10^9 bytes of the scores of that many tokens that attend to each other, in float32, by a
        runtime that stores them."""
        return 4 * self.heads * attended**2 / 1e9

    def per_parameter(self, grid: Grid, *, floats: int = 16) -> float:
        """True bits per parameter: the layers on `grid`, scales and zero points with them, and all
        else in `floats` bits."""
        stored = self.others * floats
        for layer in self.layers:
            one = weight_bits(layer.rows, layer.columns, grid, floats=floats, dense=True)
            stored += layer.count * one.total
        return stored / (self.weights + self.others)


def _cogvideox(name: str, width: int, blocks: int, heads: int, others: int) -> Published:
    return Published(
        name=name,
        clip="49 frames of 480 × 720",
        video=13 * 30 * 45,
        text=226,
        width=width,
        heads=heads,
        attended=13 * 30 * 45 + 226,
        layers=(
            Shape("attn1.to_q, to_k, to_v, to_out.0", width, width, 4 * blocks, "both"),
            Shape("ff.net.0.proj", 4 * width, width, blocks, "both"),
            Shape("ff.net.2", width, 4 * width, blocks, "both"),
            Shape("norm1.linear, norm2.linear", 6 * width, 512, 2 * blocks, "step"),
        ),
        others=others,
    )


PUBLISHED: tuple[Published, ...] = (
    Published(
        name="Open-Sora STDiT-XL/2",
        clip="16 frames of 512 × 512",
        video=16 * 32 * 32,
        text=120,
        width=1152,
        heads=16,
        attended=32 * 32,
        layers=(
            Shape("attn, attn_temp: q, k, v, proj", 1152, 1152, 28 * 8),
            Shape("cross_attn: q_linear, proj", 1152, 1152, 28 * 2),
            Shape("cross_attn.kv_linear", 2304, 1152, 28, "text"),
            Shape("mlp.fc1", 4608, 1152, 28),
            Shape("mlp.fc2", 1152, 4608, 28),
        ),
        others=16_442_528,
    ),
    Published(
        name="Latte-XL/2",
        clip="16 frames of 256 × 256",
        video=16 * 16 * 16,
        text=0,
        width=1152,
        heads=16,
        attended=16 * 16,
        layers=(
            Shape("attn.qkv", 3456, 1152, 28),
            Shape("attn.proj", 1152, 1152, 28),
            Shape("mlp.fc1", 4608, 1152, 28),
            Shape("mlp.fc2", 1152, 4608, 28),
            Shape("adaLN_modulation.1", 6912, 1152, 28, "step"),
        ),
        others=5_252_000,
    ),
    _cogvideox("CogVideoX-2b", 1920, 30, 30, 12_785_472),
    _cogvideox("CogVideoX-5b", 3072, 42, 48, 21_218_880),
    Published(
        name="HunyuanVideo",
        clip="129 frames of 720 × 1280",
        video=33 * 45 * 80,
        text=256,
        width=3072,
        heads=24,
        attended=33 * 45 * 80 + 256,
        layers=(
            Shape("attn.to_q, to_k, to_v, to_out.0", 3072, 3072, 20 * 4),
            Shape("attn.add_*_proj, to_add_out", 3072, 3072, 20 * 4, "text"),
            Shape("ff.net.0.proj", 12288, 3072, 20),
            Shape("ff.net.2", 3072, 12288, 20),
            Shape("ff_context.net.0.proj", 12288, 3072, 20, "text"),
            Shape("ff_context.net.2", 3072, 12288, 20, "text"),
            Shape("norm1.linear, norm1_context.linear", 18432, 3072, 20 * 2, "step"),
            Shape("single: to_q, to_k, to_v", 3072, 3072, 40 * 3, "both"),
            Shape("single: proj_mlp", 12288, 3072, 40, "both"),
            Shape("single: proj_out", 3072, 15360, 40, "both"),
            Shape("single: norm.linear", 9216, 3072, 40, "step"),
        ),
        others=363_929_664,
    ),
)
