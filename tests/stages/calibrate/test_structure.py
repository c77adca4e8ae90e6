"""Counting against hand counts and against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stages.calibrate.structure import COLUMNS, count, structure

BATCH, FRAMES = 2, 20


class Everything(nn.Module):
    """One of each kind; `twice` runs two times; `bare` is a parameter beside a child."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 5, stride=2, padding=2)
        self.grouped = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv1d(8, 8, 3, padding=1, groups=8, bias=False)
        self.twice = nn.Conv1d(8, 8, 1)
        self.norm = nn.GroupNorm(1, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear = nn.Linear(8, 6, bias=False)
        self.bare = nn.Parameter(torch.ones(6, 1))
        self.up = nn.ConvTranspose1d(6, 2, 4, stride=2)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.depthwise(self.grouped(self.conv(x))))
        x = self.twice(self.twice(x)).transpose(1, 2)
        x = self.attention(x, x, x, need_weights=self.training)[0]
        return self.up(self.linear(x).transpose(1, 2) * self.bare)


@pytest.fixture
def net() -> Everything:
    torch.manual_seed(0)
    return Everything()


@pytest.fixture
def example() -> Tensor:
    return torch.randn(BATCH, 3, FRAMES)


def test_hand_counts(net: Everything, example: Tensor) -> None:
    rows = structure(net, example).set_index("module")
    t = FRAMES // 2
    macs = {
        "conv": BATCH * t * 8 * 3 * 5,
        "grouped": BATCH * t * 8 * 4 * 3,
        "depthwise": BATCH * t * 8 * 3,
        "twice": 2 * BATCH * t * 8 * 8,
        "norm": 0,
        "attention": BATCH * (4 * t * 8 * 8 + 2 * t * t * 8),
        "linear": BATCH * t * 8 * 6,
        "up": BATCH * t * 6 * 2 * 4,
        "unused": 0,
        "": 0,
    }
    assert rows["macs"].to_dict() == macs
    parameters = {
        "conv": 8 * 3 * 5 + 8, "grouped": 8 * 4 * 3 + 8, "depthwise": 8 * 3, "twice": 8 * 8 + 8,
        "norm": 16, "attention": 4 * (8 * 8 + 8), "linear": 8 * 6, "up": 6 * 2 * 4 + 2,
        "unused": 4 * 4 + 4, "": 6,
    }  # fmt: skip
    assert rows["parameters"].to_dict() == parameters
    assert rows.loc["twice", ["uses", "activation_bytes"]].tolist() == [2, 2 * BATCH * 8 * t * 4]
    assert rows.loc["up", "activation_bytes"] == BATCH * 2 * (2 * t + 2) * 4
    assert rows.loc["unused", "uses"] == 0
    kinds = {
        "": "Everything", "conv": "conv", "grouped": "conv", "depthwise": "depth-wise conv",
        "twice": "1x1 conv", "norm": "GroupNorm", "attention": "attention", "linear": "linear",
        "up": "transposed conv", "unused": "linear",
    }  # fmt: skip
    assert rows["kind"].to_dict() == kinds
    assert rows["share"].sum() == pytest.approx(1.0)


def test_sums_are_what_count_gives(net: Everything, example: Tensor) -> None:
    table = structure(net, example)
    assert tuple(table) == COLUMNS
    sums = int(table["macs"].sum()), int(table["parameters"].sum())
    assert count(net, example) == sums
    assert sums[1] == sum(p.numel() for p in net.parameters())


def test_torchs_flop_counter_agrees(net: Everything, example: Tensor) -> None:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.train()(example)  # in eval mode attention takes a fused path that it does not count
    assert counter.get_total_flops() == 2 * count(net, example)[0]


def test_a_shared_parameter_counts_once(example: Tensor) -> None:
    net = nn.Sequential(nn.Conv1d(3, 3, 1), nn.Conv1d(3, 3, 1))
    net[1].weight = net[0].weight
    assert count(net, example) == (2 * BATCH * FRAMES * 9, 9 + 3 + 3)


def test_the_network_is_left_as_it_was(net: Everything, example: Tensor) -> None:
    count(net.train(), example)
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())
    assert all(p.grad is None for p in net.parameters())
