"""Sizes of blocks: tokens, memory, arithmetic and limits, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.bench.integer.cases import BY_NAME, CLIP, Case, cases, most, slug, whole
from stages.bench.kernels.block import Block
from stages.bench.kernels.block import macs as block_macs
from stages.bench.kernels.roofline import Limits
from stages.core.errors import UserError
from stages.quantize.layers import QuantLinear
from tests.stages.quantize.specs import inputs, weights

COG, LATTE = BY_NAME["cogvideox-5b"], BY_NAME["latte-xl-2"]


def test_names() -> None:
    assert slug("Open-Sora STDiT-XL/2") == "open-sora-stdit-xl-2"
    assert set(BY_NAME) == {
        "open-sora-stdit-xl-2", "latte-xl-2", "cogvideox-2b", "cogvideox-5b", "hunyuanvideo",
    }  # fmt: skip


def test_frames_stay_apart_where_the_network_keeps_them_apart() -> None:
    fit, beyond = cases({"latte-xl-2": [64, 1024]}, 128, 1.0)
    assert not beyond
    assert [(c.frames, c.tokens, c.seen, c.condition) for c in fit] == [
        (1, 64, 64, "tokens=64"),
        (4, 256, 256, "tokens=1024"),
        (1, 128, 256, CLIP),
    ]
    joint, _ = cases({"cogvideox-5b": [1024]}, 128, 10.0)
    assert [(c.frames, c.tokens, c.seen) for c in joint] == [(1, 1024, 1024), (1, 128, 17_776)]


def test_memory_ends_the_sizes() -> None:
    counts = [64, 1024, 4096, 17_776]
    fit, beyond = cases({"cogvideox-5b": counts}, 128, 4.0)
    # 48 heads of n × n numbers of 4 bytes; of the clip 48 of 128 × n, with keys and values.
    assert [c.condition for c in fit] == ["tokens=64", "tokens=1024", "tokens=4096", CLIP]
    assert fit[2].attention_gb == pytest.approx(48 * 4096**2 * 4 / 1e9)
    assert fit[3].attention_gb == pytest.approx(4 * 17_776 * (48 * 128 + 2 * 3072) / 1e9)
    assert [(c.count, round(c.attention_gb, 2)) for c in beyond] == [(17_776, 60.67)]


def test_a_whole_clip_that_does_not_fit_is_told_of_unasked() -> None:
    _, beyond = cases({"cogvideox-2b": [1], "latte-xl-2": [], "cogvideox-5b": [64]}, 128, 2.0)
    assert [(c.net.name, c.count) for c in beyond] == [
        ("CogVideoX-2b", 17_776),
        ("CogVideoX-5b", 17_776),
    ]
    # n² scores by 48 heads of 4 bytes; frames of 256 tokens of 16 heads.
    assert most(COG, 2.0) == 3227 and 48 * 4 * 3227**2 < 2e9 < 48 * 4 * 3228**2
    assert most(LATTE, 2.0) == 4096 and most(LATTE, 0.02) == 4 * 256 + 256 * 0
    assert most(LATTE, 1e-3) == 125


def test_a_clips_tokens_are_those_of_its_blocks() -> None:
    """Words stand apart where another attention sees them."""
    assert whole(BY_NAME["open-sora-stdit-xl-2"]).count == 16_384
    assert whole(COG).count == 17_776 and whole(LATTE).frames == 16


def test_what_cannot_be() -> None:
    with pytest.raises(UserError, match=r"'cogvideox' is no published network here: open-sora"):
        cases({"cogvideox": [64]}, 128, 1.0)
    with pytest.raises(UserError, match="latte-xl-2: 300 tokens are no whole number of frames of"):
        cases({"latte-xl-2": [300]}, 128, 1.0)


def test_arithmetic_is_the_blocks() -> None:
    whole = Case(COG, 1, 64, 64, clip=False)
    assert whole.macs == block_macs(3072, 64, 64)
    frames = Case(LATTE, 4, 256, 256, clip=False)
    assert frames.macs == 4 * block_macs(1152, 256, 256)
    part = Case(COG, 1, 128, 17_776, clip=True)
    assert part.macs == 12 * 128 * 3072**2 + 2 * 128 * 17_776 * 3072


def test_slices_make_up_the_clip() -> None:
    """n / m slices are as much arithmetic as one block of n tokens."""
    part = Case(COG, 1, 16, 17_776, clip=True)
    assert part.macs * 17_776 == block_macs(3072, 17_776, 17_776) * 16


def test_inputs_of_the_graphs() -> None:
    assert Case(LATTE, 4, 256, 256, clip=False).shapes == {"x": (4, 256, 1152)}
    assert Case(COG, 1, 128, 17_776, clip=True).shapes == {
        "x": (1, 128, 3072),
        "keys": (48, 64, 17_776),
        "values": (48, 17_776, 64),
    }


def test_the_least_time_is_that_of_layers_and_attention() -> None:
    limits = Limits(threads=1, float_gops=100.0, integer_gops=400.0, gigabytes=1e6)
    with torch.device("meta"):
        block = Block(1152, 16, 256)
    layers = [
        QuantLinear(m, weights(), inputs()) for m in block.modules() if isinstance(m, nn.Linear)
    ]
    case = Case(LATTE, 4, 256, 256, clip=False)
    attention, linear = 4 * 1024 * 256 * 1152, 24 * 1024 * 1152**2
    assert case.least_ms(limits, layers, "full") == pytest.approx(
        (attention + linear) / 100e9 * 1e3
    )
    assert case.least_ms(limits, layers, "exact") == pytest.approx(
        (attention / 100e9 + linear / 400e9) * 1e3
    )
