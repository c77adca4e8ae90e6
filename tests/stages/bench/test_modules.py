"""Time per module: waits are found where they are made, shared modules added up."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from stages.bench.modules import module_times


class Wait(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.short, self.long, self.idle = Wait(0.004), Wait(0.02), Wait(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.long(self.short(self.short(x)))


def test_time_is_found_where_it_is_spent() -> None:
    net = Net().train()
    times = module_times(net, torch.zeros(1), warmup=1, repeats=3)
    assert set(times) == {"short", "long"}, "what is never called has no time"
    assert times["short"] == pytest.approx(8, rel=0.5)
    assert times["long"] == pytest.approx(20, rel=0.5)
    assert net.training
    assert not net.short._forward_hooks and not net.short._forward_pre_hooks
