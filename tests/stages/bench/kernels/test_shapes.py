"""The listed shapes against the classes that hold the published networks, built without weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from stages.bench.kernels.shapes import PUBLISHED, Published, Shape
from stages.quantize.grids import Grid

BY_NAME = {published.name: published for published in PUBLISHED}
W4 = Grid(bits=4, symmetric=True, granularity="channel", group=None, dynamic=False)


def cogvideox(heads: int, blocks: int) -> nn.Module:
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel(
        num_attention_heads=heads,
        num_layers=blocks,
        sample_width=90,
        sample_height=60,
        use_rotary_positional_embeddings=heads == 48,
    )


def hunyuan() -> nn.Module:
    from diffusers.models.transformers.transformer_hunyuan_video import (
        HunyuanVideoTransformer3DModel,
    )

    return HunyuanVideoTransformer3DModel()


BUILT: dict[str, Any] = {
    "CogVideoX-2b": lambda: cogvideox(30, 30),
    "CogVideoX-5b": lambda: cogvideox(48, 42),
    "HunyuanVideo": hunyuan,
}


@pytest.mark.parametrize("name", BUILT)
def test_they_are_those_of_the_class(name: str) -> None:
    published: Published = BY_NAME[name]
    with torch.device("meta"):
        net = BUILT[name]()
    inside = ("transformer_blocks", "single_transformer_blocks")
    found: Counter[tuple[int, int]] = Counter()
    for path, module in net.named_modules():
        if path.startswith(inside) and isinstance(module, nn.Linear):
            found[module.out_features, module.in_features] += 1
    listed: Counter[tuple[int, int]] = Counter()
    for layer in published.layers:
        listed[layer.rows, layer.columns] += layer.count
    assert listed == found
    assert published.others == sum(p.numel() for p in net.parameters()) - published.weights


def test_the_other_two_have_the_published_numbers_of_parameters() -> None:
    """Without what their authors do not count: Latte's places and classes, and STDiT's temporal
    attention, as the rest is PixArt-α."""
    latte = BY_NAME["Latte-XL/2"]
    uncounted = (102 + 256 + 16) * 1152
    assert latte.weights + latte.others - uncounted == pytest.approx(673.68e6, abs=5e3)
    stdit = BY_NAME["Open-Sora STDiT-XL/2"]
    temporal = 28 * 4 * (1152 * 1152 + 1152)
    assert stdit.weights + stdit.others - temporal == 610_856_096


def test_tokens_are_those_of_the_published_clips() -> None:
    assert BY_NAME["Open-Sora STDiT-XL/2"].video == 16 * 1024
    cog = BY_NAME["CogVideoX-5b"]
    by_what = {layer.sees: cog.tokens(layer) for layer in cog.layers}
    assert by_what == {"both": 17_776, "step": 1}
    # 48 heads of 17,776 × 17,776 scores do not fit into the memory of an ordinary machine.
    assert cog.attended == 17_776
    assert cog.attention_gb(cog.attended) == pytest.approx(60.67, abs=0.01)


def test_four_bits_give_the_published_compression_of_cogvideox() -> None:
    """S²Q-VDiT, table 5: 10.375 GB, which are GiB, become 2.633, that is 4.06 bits a parameter;
    so it is with one 16-bit scale a row and all else in 16 bits."""
    cog = BY_NAME["CogVideoX-5b"]
    assert 2 * (cog.weights + cog.others) / 2**30 == pytest.approx(10.375, abs=1e-3)
    bits = cog.per_parameter(W4)
    assert 16 / bits == pytest.approx(10.375 / 2.633, rel=0.005)


def test_bits_are_counted_to_the_last_scale() -> None:
    one = Published("n", "c", 1, 0, 8, 1, 1, (Shape("l", 3, 8, 2),), others=10)
    # Twice 24 codes of 4 bits and 3 scales of 16, and 10 numbers of 16, over 58 parameters.
    assert one.per_parameter(W4) == (2 * (24 * 4 + 3 * 16) + 10 * 16) / 58
