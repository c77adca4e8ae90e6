"""The separators: published sizes, norms under masks, gradients, lengths, attention, export."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.sepprune.model import build, load
from pipelines.sepprune.separators import layers
from pipelines.sepprune.separators.frame import Separator
from pipelines.sepprune.separators.tdanet import average_pool
from stages.bench.export import agreement, export_onnx
from stages.calibrate.structure import count
from stages.prune.groups import parameters_per_channel
from stages.prune.masks import masked
from stages.prune.surgery import as_masks, cut
from tests.pipelines.sepprune.published import (
    CONFIGS,
    RATE,
    published_macs,
    published_module_macs,
)

FRAME = {"voices": 2, "basis": 10, "kernel": 21, "stride": 10, "bottleneck": 6, "depth": 3}
SMALL: dict[str, dict[str, Any]] = {
    "sudormrf": {**FRAME, "name": "sudormrf", "hidden": 9, "blocks": 2},
    "afrcnn": {**FRAME, "name": "afrcnn", "hidden": 7, "iterations": 3},
    "tdanet": {
        **FRAME, "name": "tdanet", "kernel": 16, "stride": 4, "hidden": 8, "ffn": 11, "heads": 2,
        "iterations": 2, "attention_axis": "time",
    },
}  # fmt: skip


def small(name: str, **change: Any) -> Separator:
    """A tiny net in eval mode, every parameter random."""
    torch.manual_seed(0)
    net = build({**SMALL[name], **change}).eval()
    for values in net.parameters():
        values.data += 0.1 * torch.randn_like(values)
    return net


@pytest.fixture(params=SMALL)
def net(request: pytest.FixtureRequest) -> Separator:
    return small(request.param)


def published(name: str, **change: Any) -> Separator:
    with torch.device("meta"):
        return build({**CONFIGS[name], **change}).eval()


def halves(net: Separator) -> dict[str, Tensor]:
    """Keeps every other channel of each group."""
    return {group.name: torch.arange(0, group.size, 2) for group in net.groups()}


# ------------------------------------------------------------------ published sizes (table 1)


@pytest.mark.parametrize(
    ("name", "parameters", "giga"),
    [
        ("sudormrf", 2_720_417, 4.65),
        ("afrcnn", 5_127_688, 28.58),
        ("afrcnn-16", 5_127_688, 37.44),
        ("tdanet", 2_353_479, 4.77),
    ],
)
def test_published_parameters_and_macs(name: str, parameters: int, giga: float) -> None:
    net = published(name)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert round(published_macs(net) / 1e9, 2) == giga


@pytest.mark.parametrize(
    ("name", "millions", "giga", "percent"),
    [
        ("sudormrf", 2.35, 3.57, 86.50),
        ("afrcnn", 4.22, 26.56, 82.31),
        ("afrcnn-16", 4.22, 35.42, 82.31),
        ("tdanet", 2.29, 4.59, 97.44),
    ],
)
def test_published_share_of_the_separation_module(
    name: str, millions: float, giga: float, percent: float
) -> None:
    """ptflops leaves the norms' parameters out of a module's sum, but not out of the total."""
    net = published(name)
    norms = [m for m in net.sm.modules() if isinstance(m, layers.GlobLN)]
    inside = sum(p.numel() for p in net.sm.parameters()) - sum(2 * len(m.gamma) for m in norms)
    assert round(inside / 1e6, 2) == millions
    assert round(100 * inside / sum(p.numel() for p in net.parameters()), 2) == percent
    assert round(published_module_macs(net) / 1e9, 2) == giga


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("sudormrf", 3_883_008_000),
        ("afrcnn", 27_209_318_400),
        ("tdanet", 4_569_677_952),
    ],
)
def test_our_own_count_of_the_published_nets(name: str, products: int) -> None:
    assert count(published(name), torch.zeros(1, RATE, device="meta"))[0] == products


@pytest.mark.parametrize(
    ("name", "fixed", "per_channel"),
    [
        ("sudormrf", 254_625, [301] * 16),
        ("afrcnn", 1_451_528, [1539, 2051, 2051, 1539]),
        ("tdanet", 2_353_479 - 1024 * 1032, [1032]),
    ],
)
def test_published_cost_of_a_channel(name: str, fixed: int, per_channel: list[int]) -> None:
    net = published(name)
    groups = net.groups()
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert [parameters_per_channel(group, shapes) for group in groups] == per_channel
    widths = {group.name: 3 + index for index, group in enumerate(groups)}
    cut_net = published(name, widths=net.with_widths(widths)["widths"])
    paid = sum(cost * widths[g.name] for cost, g in zip(per_channel, groups, strict=True))
    assert sum(p.numel() for p in cut_net.parameters()) == fixed + paid
    assert [group.size for group in cut_net.groups()] == list(widths.values())


# ------------------------------------------------------------------ masks


def test_masked_net_equals_cut_net_in_double_precision(net: Separator) -> None:
    net.double()
    keep, mix = halves(net), torch.randn(2, 333, dtype=torch.float64)
    shorter = build(net.with_widths({name: len(kept) for name, kept in keep.items()})).double()
    shorter.load_state_dict(cut(net.state_dict(), net.groups(), keep), strict=True)
    masks = {name: mask.double() for name, mask in as_masks(net.groups(), keep).items()}
    with masked(net, net.groups(), masks):
        reference = net(mix)
    torch.testing.assert_close(shorter.eval()(mix), reference, rtol=1e-9, atol=1e-11)


def test_an_all_ones_mask_changes_no_bit_of_the_output(net: Separator) -> None:
    mix = torch.randn(2, 333)
    masks = {group.name: torch.ones(group.size) for group in net.groups()}
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            plain = net(mix)
            with masked(net, net.groups(), masks):
                assert torch.equal(net(mix), plain)


def test_the_masks_gradient_is_the_numeric_one_for_dead_channels_too(net: Separator) -> None:
    net.double()
    mix = torch.randn(2, 120, dtype=torch.float64)
    group = net.groups()[-1]
    mask = torch.ones(group.size, dtype=torch.float64)
    mask[0] = 0.0

    def loss(values: Tensor) -> Tensor:
        with masked(net, [group], {group.name: values}):
            return net(mix).square().mean()

    assert torch.autograd.gradcheck(loss, (mask.requires_grad_(),), fast_mode=True, rtol=1e-4)
    (gradient,) = torch.autograd.grad(loss(mask), mask)
    assert gradient[0] != 0


def test_a_net_without_any_channel_of_a_group_is_finite(net: Separator) -> None:
    """The paper's threshold may leave none during a search."""
    group = net.groups()[0]
    mask = torch.zeros(group.size).requires_grad_()
    with masked(net, [group], {group.name: mask}):
        made = net(torch.randn(2, 333))
    made.square().mean().backward()
    assert torch.isfinite(made).all()
    assert torch.isfinite(mask.grad).all()


# ------------------------------------------------------------------ quick layers


@pytest.mark.parametrize(("quick", "plain"), [
    (layers.PReLU(), nn.PReLU()),
    (layers.Conv1x1(6, 4), nn.Conv1d(6, 4, 1)),
    (layers.DepthwiseConv(6), nn.Conv1d(6, 6, 5, 1, 2, groups=6)),
    (layers.DepthwiseConv(6, stride=2), nn.Conv1d(6, 6, 5, 2, 2, groups=6)),
    (layers.DepthwiseConv(6, 1, bias=False), nn.Conv1d(6, 6, 1, groups=6, bias=False)),
])  # fmt: skip
@pytest.mark.parametrize("frames", [40, 41])
def test_quick_layers_equal_pytorchs(quick: nn.Module, plain: nn.Module, frames: int) -> None:
    plain, quick = copy.deepcopy(plain).double(), copy.deepcopy(quick).double()
    quick.load_state_dict(plain.state_dict())
    torch.manual_seed(0)
    x = torch.randn(3, 6, frames, dtype=torch.float64)
    grads = []
    for layer in (quick, plain):
        seen = x.clone().requires_grad_()
        made = layer(seen)
        (made * torch.cos(made.detach())).sum().backward()
        grads.append([made.detach(), seen.grad, *(p.grad for p in layer.parameters())])
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_two_training_steps_give_the_same_bits(net: Separator) -> None:
    def gradient() -> list[Tensor]:
        torch.manual_seed(1)
        twin = copy.deepcopy(net).train()
        twin(torch.randn(2, 400)).square().mean().backward()
        return [p.grad for p in twin.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradient(), gradient(), strict=True))


# ------------------------------------------------------------------ inputs, attention


@pytest.mark.parametrize("samples", [1, 37, 160, 801])
def test_any_length_goes_in_and_comes_out(net: Separator, samples: int) -> None:
    made = net(torch.randn(2, samples))
    assert made.shape == (2, 2, samples)
    assert torch.isfinite(made).all()


def test_trailing_padding_is_not_heard(net: Separator) -> None:
    """A length that needs no padding gives, cut by one sample, about the same estimate."""
    mix = torch.randn(1, 640)
    mix[:, -1] = 0.0
    torch.testing.assert_close(net(mix[:, :-1]), net(mix)[..., :-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("axis", "alone"), [("time", True), ("batch", False)])
def test_trap_15_attention_over_time_leaves_batch_companions_alone(axis: str, alone: bool) -> None:
    net = small("tdanet", attention_axis=axis)
    mix = torch.randn(3, 256)
    with torch.no_grad():
        together, single = net(mix)[:1], net(mix[:1])
    assert torch.allclose(together, single, rtol=1e-4, atol=1e-5) is alone


def test_trap_15_as_published_a_lone_mixture_is_not_attended_to() -> None:
    """Over a batch of one each frame attends to itself alone: what it gives is its own value."""
    net = small("tdanet", attention_axis="batch")
    attention = net.sm.unet.globalatt.attn
    x = torch.randn(1, 8, 12)
    changed = x.clone()
    changed[..., 5:] = torch.randn(1, 8, 7)
    assert torch.equal(attention(x)[..., :5], attention(changed)[..., :5])
    over_time = small("tdanet").sm.unet.globalatt.attn
    assert not torch.allclose(over_time(x)[..., :5], over_time(changed)[..., :5], atol=1e-3)


@pytest.mark.parametrize(("length", "size"), [(32, 4), (33, 4), (7, 7), (10, 3), (5, 1)])
def test_pooling_is_torchs(length: int, size: int) -> None:
    x = torch.randn(2, 3, length)
    expected = torch.nn.functional.adaptive_avg_pool1d(x, size)
    torch.testing.assert_close(average_pool(x, size), expected)


def test_unknown_names_and_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="attention_axis"):
        small("tdanet", attention_axis="frames")
    net = small("sudormrf")
    for widths in ({"sm.9.proj_1x1": 3}, {"sm.0.proj_1x1": 0}, {"sm.0.proj_1x1": 10}):
        with pytest.raises(ValueError, match="width"):
            net.with_widths(widths)


# ------------------------------------------------------------------ files


def test_a_cut_net_is_loaded_from_its_config(net: Separator, tmp_path: Path) -> None:
    keep = halves(net)
    config = net.with_widths({name: len(kept) for name, kept in keep.items()})
    save_file(cut(net.state_dict(), net.groups(), keep), tmp_path / "u00000.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load(tmp_path, "u00000.safetensors")
    assert not loaded.training
    assert [group.size for group in loaded.groups()] == [len(kept) for kept in keep.values()]


def test_trap_13_a_key_that_is_missing_is_no_silent_default(net: Separator, tmp_path: Path) -> None:
    weights = dict(list(net.state_dict().items())[1:])
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(net.config))
    with pytest.raises(RuntimeError, match="Missing key"):
        load(tmp_path)


@pytest.mark.parametrize("name", SMALL)
def test_the_exported_net_agrees(name: str, tmp_path: Path) -> None:
    net, example = small(name), (torch.randn(1, 320),)
    export_onnx(net, example, tmp_path / "net.onnx", ["mix"], ["sources"])
    assert agreement(net, tmp_path / "net.onnx", [example], 1e-4) < 1e-4
