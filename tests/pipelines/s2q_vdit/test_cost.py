"""What is timed is an update and a plain pass, and nothing is left behind but what was learned."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from pipelines.s2q_vdit import cost
from stages.bench import ratio
from stages.bench.ratio import Ratio
from stages.quantize.layers import knobs, quantized
from tests.pipelines.s2q_vdit import small


def test_updates_and_passes_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small.denoiser(1)
    name, given = small.observed(net)
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    block = small.swapped(net, small.base("full")).get_submodule(name)
    turns: list[list[torch.Tensor]] = []

    def measure(plain: object, work: object, count: int) -> Ratio:
        for _ in range(count + 1):
            plain()  # type: ignore[operator]
            work()  # type: ignore[operator]
            turns.append([p.detach().clone() for p in knobs(block)["transform"]])
        return Ratio(2.0, 3.0, (1.0, 1.5, 2.0))

    monkeypatch.setattr(ratio, "measure", measure)
    found = cost.of_update(
        block, name, given, small.base("full"), None, "apart", small.course(), turns=2
    )
    assert found.value == 1.5 and len(turns) == 3
    for before, after in pairwise(turns):
        assert not torch.equal(before[0], after[0]), "an update learns"
    layer = quantized(block)["attn1.to_q"]
    assert torch.equal(layer.weight, weights[f"{name}.attn1.to_q.weight"])
    assert layer.transform is quantized(block)["attn1.to_k"].transform
