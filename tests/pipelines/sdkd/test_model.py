"""The networks of SDKD: shapes, branches, determinism, what a config may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from pipelines.sdkd.model import build, load
from pipelines.sdkd.nets.layers import Block
from stages.calibrate.structure import count
from stages.core.errors import UserError
from tests.pipelines.sdkd.nets import ALL, SHAPE, STUDENTS, TEACHERS, keep, made


def clip(batch: int = 2, frames: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, frames, 2, 16, 16, generator=generator)


@pytest.mark.parametrize("name", ALL)
def test_shapes(name: str) -> None:
    net = made(name)
    forecast, latent = net(clip())
    assert forecast.shape == (2, 3, 2, 16, 16)
    assert latent.shape == (2, *net.latent)
    assert torch.isfinite(forecast).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("horizon", [1, 5])
def test_a_horizon_of_another_length(name: str, horizon: int) -> None:
    net = build({**ALL[name], "shape": {**SHAPE, "horizon": horizon}}).eval()
    assert net(clip())[0].shape == (2, horizon, 2, 16, 16)


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_and_every_given_frame_counts(name: str) -> None:
    net, x = made(name), clip().requires_grad_()
    net(x)[0].square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert (x.grad.abs().amax((0, 2, 3, 4)) > 0).all()


@pytest.mark.parametrize("name", ALL)
def test_a_clip_does_not_see_its_neighbours_in_the_batch(name: str) -> None:
    net, x = made(name), clip(3)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[0][1:2], net(x[1:2])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_a_saved_net_comes_back_in_eval_mode(name: str, tmp_path: Path) -> None:
    net = keep(tmp_path, name)
    again = load(tmp_path)
    assert not again.training and again.config == net.config
    with torch.no_grad():
        assert torch.equal(again(clip())[0], net(clip())[0])


@pytest.mark.parametrize("name", TEACHERS)
def test_trap_4_a_teacher_is_random_in_training_only(name: str) -> None:
    net = made(name)
    with torch.no_grad():
        assert torch.equal(net(clip())[0], net(clip())[0])
        net.train()
        assert not torch.equal(net(clip(8))[0], net(clip(8))[0])  # drop_path


@pytest.mark.parametrize("name", TEACHERS)
def test_the_branches_are_the_last_blocks(name: str) -> None:
    net = made(name)
    kept: dict[str, Any] = {}
    net.blocks[-1].register_forward_hook(lambda m, a, out: kept.update(out=out, z=a[0]))
    with torch.no_grad():
        forecast, latent, high, low = net.branches(clip())
        assert torch.equal(forecast, net(clip())[0])
        torch.testing.assert_close(high, functional.gelu(net.blocks[-1].conv(kept["z"])))
    assert latent is kept["out"][0] or torch.equal(latent, kept["out"][0])
    assert (low is None) == (name == "simvp")


def test_equations_2_to_4_of_the_parallel_block() -> None:
    """Against the equations written out, softmax and all."""
    torch.manual_seed(0)
    block, z = Block(8, 2, 2.0, 0.0, "parallel").eval(), torch.randn(2, 8, 4, 3)
    with torch.no_grad():
        out, high, low = block(z)
        tokens = z.flatten(2).transpose(1, 2)
        weight, bias = block.attention.in_proj_weight, block.attention.in_proj_bias
        q, k, v = (
            functional.linear(tokens, w, b).unflatten(2, (2, 4)).transpose(1, 2)
            for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True)
        )
        mixed = ((q @ k.transpose(-1, -2) / 4**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        expected = block.attention.out_proj(mixed).transpose(1, 2).unflatten(2, (4, 3))
        torch.testing.assert_close(low, expected, rtol=1e-5, atol=1e-6)
        fused = z + high + low
        centred = fused - fused.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(out, normed + block.mlp(normed), rtol=1e-5, atol=1e-6)


def test_serial_attention_reads_what_the_convolution_made() -> None:
    torch.manual_seed(0)
    blocks = {mode: Block(8, 2, 2.0, 0.0, mode).eval() for mode in ("parallel", "serial")}
    z = torch.randn(1, 8, 4, 4)
    slope = {}
    for mode, block in blocks.items():
        low = block(z)[2]
        assert low is not None
        found = torch.autograd.grad(low.sum(), block.conv.weight, allow_unused=True)
        slope[mode] = found[0]
    assert slope["parallel"] is None and slope["serial"].any()


def test_students_are_smaller_and_their_latent_is_a_quarter() -> None:
    teacher = made("alternet")
    _, whole = count(teacher, clip(1))
    for name in STUDENTS:
        student = made(name)
        assert student.latent[0] / teacher.latent[0] == 0.25
        assert count(student, clip(1))[1] < whole


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("unet", {"depth": 0}, "depth"), ("unet", {"colour": 1}, "colour"),
        ("alternet", {"mode": "both"}, "mode"), ("simvp", {"heads": 2}, "heads"),
        ("unet", {"net": "vit"}, "vit"),
        ("alternet", {"heads": 5}, "heads is 5, which does not divide hidden_t, 12"),
    ],
)  # fmt: skip
def test_a_wrong_number_is_refused(name: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        build({**ALL[name], **change, "shape": SHAPE})


@pytest.mark.parametrize(
    ("name", "change", "step"),
    [("unet", {"depth": 5}, 32), ("mixer", {"patch": 3}, 3), ("simvp", {"layers_s": 10}, 32)],
)
def test_a_grid_that_cannot_be_halved_so_often_is_an_error(
    name: str, change: dict[str, Any], step: int
) -> None:
    with pytest.raises(UserError, match=f"divide by {step}; the data's is 16x16"):
        build({**ALL[name], **change, "shape": SHAPE})
