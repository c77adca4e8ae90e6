"""The library on blocks of real video transformers: factorised and joint attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.core.job import Job
from stages.quantize.capture import ROOT, capture
from stages.quantize.gptq import fix_by_gptq, hessians
from stages.quantize.grids import Grid
from stages.quantize.layers import InputSpec, WeightSpec, knobs, plain
from stages.quantize.reconstruct import (
    Group,
    ReconstructSpec,
    mean_loss,
    reconstruct,
    weighted_error,
)
from stages.quantize.swap import Rule, swap
from stages.quantize.transforms import Kronecker

CPU = torch.device("cpu")
CLIPS, FRAMES = 3, 4


def factorised() -> tuple[nn.Module, dict[str, Any]]:
    from diffusers import LatteTransformer3DModel

    model = LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=1, num_layers=2,
        cross_attention_dim=16, attention_bias=True, sample_size=8, patch_size=4,
        activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
        norm_elementwise_affine=False, caption_channels=12, video_length=FRAMES,
    )  # fmt: skip
    return model, {"hidden_states": torch.randn(CLIPS, 1, FRAMES, 8, 8), **words()}


def joint() -> tuple[nn.Module, dict[str, Any]]:
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=1,
        time_embed_dim=16, text_embed_dim=12, num_layers=2, sample_width=8, sample_height=8,
        sample_frames=FRAMES, patch_size=4, temporal_compression_ratio=1, max_text_seq_length=5,
        use_rotary_positional_embeddings=True,
    )  # fmt: skip
    angles = torch.rand(FRAMES * 4, 4).repeat_interleave(2, 1)
    rotary = (angles.cos(), angles.sin())
    clips = torch.randn(CLIPS, FRAMES, 1, 8, 8)
    return model, {"hidden_states": clips, "image_rotary_emb": rotary, **words()}


def words() -> dict[str, Tensor]:
    steps = torch.tensor([3, 500, 999])
    return {"encoder_hidden_states": torch.randn(CLIPS, 5, 12), "timestep": steps}


def made(which: str) -> tuple[nn.Module, dict[str, Any], list[str]]:
    torch.manual_seed(0)
    model, call = factorised() if which == "factorised" else joint()
    for parameter in model.parameters():  # several start at zero, where nothing would be tested
        nn.init.normal_(parameter, std=0.2)
    heads = ("transformer_blocks.1", "temporal_transformer_blocks.1")
    names = [ROOT, *(n for n, _ in model.named_modules() if n in heads)]
    return model.eval(), {**call, "return_dict": False}, names


def first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


@pytest.mark.parametrize("which", ["factorised", "joint"])
def test_what_a_block_was_given_gives_what_it_gave(which: str) -> None:
    model, call, names = made(which)
    with torch.no_grad(), capture(model, names, shared=("image_rotary_emb",)) as found:
        model(**call)
    assert set(found) == set(names) and len(names) == (3 if which == "factorised" else 2)
    for name, records in found.items():
        assert len(records) == CLIPS
        given, wanted = records.batch([2, 0], CPU)
        with torch.no_grad():
            got = given.call(model.get_submodule(name))
        torch.testing.assert_close(first(got), first(wanted))
        apart = first(records.batch([0, 2], CPU)[1])
        assert float((first(wanted) - apart).abs().max()) > 1e-2  # the order matters


@pytest.mark.parametrize("which", ["factorised", "joint"])
def test_a_block_is_reconstructed_and_rounded(which: str, job: Job) -> None:
    model, call, names = made(which)
    rows = Grid(bits=3, symmetric=True, granularity="channel", group=None, dynamic=True)
    tokens = Grid(bits=6, symmetric=True, granularity="token", group=None, dynamic=True)
    weights = WeightSpec(grid=rows, clip="learned", norm=None, rounding="nearest")
    inputs = InputSpec(grid=tokens, clip="learned")
    layers = swap(model, [Rule(pattern="*transformer_blocks.1.*", weights=weights, inputs=inputs)])
    for layer in layers.values():
        layer.transform = Kronecker.hadamard(layer.in_features)
        layer.calibrate()
    shared = ("image_rotary_emb",)
    with torch.no_grad(), plain(model), capture(model, names, shared=shared) as found:
        model(**call)

    def loss(output: Any, target: Any, samples: Tensor) -> Tensor:
        return weighted_error(first(output), first(target))

    for name in names[1:]:
        block, records = model.get_submodule(name), found[name]
        trained = knobs(block)
        groups = [Group(trained[k], r) for k, r in (("transform", 5e-3), ("clip", 5e-2))]
        spec = ReconstructSpec(steps=25, batch=3, weight_decay=0.0, final=1e-3, clip=None)
        before = mean_loss(block, records, loss, CLIPS)
        reconstruct(block, records, groups, loss, spec, job=job, name=name, seed=0)
        learned = mean_loss(block, records, loss, CLIPS)
        assert learned < 0.8 * before
        inside = {n: y for n, y in layers.items() if n.startswith(f"{name}.")}

        def run(block: nn.Module = block, records: Any = records) -> None:
            records.batch(range(CLIPS), CPU)[0].call(block)

        for n, hessian in hessians(inside, run).items():
            fix_by_gptq(inside[n], hessian, damping=0.01, act_order=True)
        assert mean_loss(block, records, loss, CLIPS) < learned


def test_the_whole_model_is_reconstructed_as_a_block_is(job: Job) -> None:
    model, call, _ = made("factorised")
    rows = Grid(bits=4, symmetric=False, granularity="channel", group=None, dynamic=False)
    weights = WeightSpec(grid=rows, clip="searched", norm=2.0, rounding="nearest")
    swap(model, [Rule(pattern="*transformer_blocks.*", weights=weights, inputs=None)])
    with torch.no_grad(), plain(model), capture(model, [ROOT]) as found:
        model(**call)

    def loss(output: Any, target: Any, samples: Tensor) -> Tensor:
        return (output[0] - target[0]).square().mean()

    groups = [Group(knobs(model)["scale"], 2e-4)]
    spec = ReconstructSpec(steps=30, batch=3, weight_decay=0.0, final=0.0, clip=1.0)
    before = mean_loss(model, found[ROOT], loss, CLIPS)
    reconstruct(model, found[ROOT], groups, loss, spec, job=job, name="model", seed=0)
    assert mean_loss(model, found[ROOT], loss, CLIPS) < 0.9 * before
