"""Which layers get how many bits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.model import Joint, Shape, build
from pipelines.q_vdit import plan
from pipelines.q_vdit.plan import Cell
from stages.core.errors import UserError
from stages.quantize import mixed
from stages.quantize.layers import quantized
from stages.quantize.swap import swap
from tests.pipelines.q_vdit import small


class Stdit(nn.Module):
    """The layers of one block of the published network, by shape: 12 d² attention, 8 d² beside."""

    def __init__(self, d: int = 8) -> None:
        super().__init__()
        block = nn.Module()
        for kind in ("attn1", "attn_temp", "attn2"):
            attention = nn.Module()
            for name in ("to_q", "to_k", "to_v", "to_out"):
                attention.add_module(name, nn.Linear(d, d))
            block.add_module(kind, attention)
        block.add_module("ff", nn.Sequential(nn.Linear(d, 4 * d), nn.Linear(4 * d, d)))
        self.net = nn.Module()
        self.net.add_module("transformer_blocks", nn.ModuleList([block]))
        self.net.add_module("proj_out", nn.Linear(d, d))


@pytest.mark.parametrize(
    ("name", "weights", "inputs"),
    [
        ("W3A6-mix", 5.0, (12 * 6 + 8 * 8) / 20),
        ("W4A6-mix", 5.6, (12 * 6 + 8 * 8) / 20),
        ("W3A8-mix", 5.0, 8.0),
        ("W3A6-all", 3.0, 6.0),
        ("W8A8-all", 8.0, 8.0),
        ("W4A16-mix", 5.6, 16.0),
    ],
)
def test_true_average_bits_of_the_published_blocks(
    name: str, weights: float, inputs: float
) -> None:
    """What the paper calls W3 is 5.0 bits a weight of the blocks, W4 is 5.6."""
    model = Stdit()
    swap(model, Cell.parse(name).rules)
    found = mixed.average(model, among=plan.layers(model))
    assert found.weights == pytest.approx(weights)
    assert found.inputs == pytest.approx(inputs)


def test_bits_of_every_layer_of_latte() -> None:
    net = small.denoiser(layers=2)
    swap(net, Cell.parse("W3A6-mix").rules)
    made = quantized(net)
    # In space: two attentions and a feed-forward network; in time one attention less.
    assert len(made) == 2 * (4 + 4 + 2) + 2 * (4 + 2) == len(plan.layers(net))
    for name, layer in made.items():
        kept = ".ff." in name
        assert layer.weights.grid.bits == (8 if kept else 3)
        assert layer.inputs is not None and layer.inputs.grid.bits == (8 if kept else 6)
    assert isinstance(net.get_submodule("net.proj_out"), nn.Linear)


def test_the_layers_are_the_same_before_and_after() -> None:
    net = small.denoiser()
    before = plan.layers(net)
    swap(net, Cell.parse("W4A8-all").rules)
    assert plan.layers(net) == before


def test_at_eight_bits_both_readings_are_one() -> None:
    start = small.ground()
    outputs = [small.output(small.student(start, cell), start) for cell in ("W8A8-mix", "W8A8-all")]
    assert torch.equal(*outputs)


def test_blocks_come_in_the_order_in_which_they_run() -> None:
    start = small.ground(layers=2)
    net, order = copy.deepcopy(start.taught.denoiser), []
    for path in plan.blocks(net):
        net.get_submodule(path).register_forward_hook(lambda *_, path=path: order.append(path))
    small.output(net, start, [0])
    assert order == plan.blocks(net) and len(order) == 4


@pytest.mark.parametrize("name", ["W3A6", "W3A6-some", "W9A6-mix", "mix", ""])
def test_a_name_that_is_no_cell_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"W3A6|W4A6"):
        Cell.parse(name)


def test_a_network_of_joint_attention_is_refused() -> None:
    shape = Shape(frames=4, channels=1, size=8, words=3, text=8)
    joint: Denoiser = build(Joint(net="cogvideox", width=16, heads=2, layers=1, patch=4), shape)
    with pytest.raises(UserError, match="s2q_vdit"):
        plan.check_family(joint)
