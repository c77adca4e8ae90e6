"""Weights of tokens: the notes' traps 5, 6 and 8."""

import pytest
import torch
from torch import Tensor

from pipelines.s2q_vdit import tokens
from pipelines.s2q_vdit.base import attach
from stages.core.job import Job
from stages.quantize.layers import knobs, quantized
from stages.quantize.reconstruct import Group, ReconstructSpec, reconstruct
from tests.pipelines.foundations.video.small import drawn
from tests.pipelines.s2q_vdit import small

S = torch.tensor([[1.0, 2.0, 5.0, 3.0, 9.0, 7.0], [4.0, 4.0, 0.0, 2.0, 1.0, 1.0]])


@pytest.mark.parametrize("least", [0.0, 0.25, 0.5, 0.75])
def test_equation_11(least: float) -> None:
    found = tokens.weights(S, least)
    for row, own in zip(S, found, strict=True):
        low, high = float(row.min()), float(row.max())
        wanted = [(float(s) - low) / (high - low) * (1 - least) + least for s in row]
        assert own.tolist() == pytest.approx(wanted)
        assert float(own.min()) == pytest.approx(least) and float(own.max()) == 1


def test_where_all_get_the_same_attention_all_count_alike() -> None:
    # Row sums of a softmax, were they taken by mistake, are 1 up to rounding.
    rows = drawn(1, 50, 50).softmax(-1).sum(-1)
    assert torch.equal(tokens.weights(rows, 0.5), torch.ones(1, 50))
    assert torch.equal(tokens.weights(torch.zeros(1, 4), 0.5), torch.ones(1, 4))


def test_text_is_left_out_apart_or_together() -> None:
    out, apart, together = (
        tokens.with_text(S, 4, 0.5, how) for how in ("out", "apart", "together")
    )  # type: ignore[arg-type]
    assert torch.equal(out, tokens.weights(S[:, :4], 0.5))
    assert torch.equal(apart, torch.cat([out, tokens.weights(S[:, 4:], 0.5)], 1))
    assert torch.equal(together, tokens.weights(S, 0.5))
    assert float(out[0].max()) == 1 and float(together[0, :4].max()) < 1
    assert torch.equal(tokens.with_text(S, 6, 0.5, "apart"), tokens.weights(S, 0.5))


def test_the_loss_is_equation_10_over_the_number_of_channels() -> None:
    target = (drawn(2, 4, 3), drawn(2, 2, 3, seed=1))
    output = (drawn(2, 4, 3, seed=2), drawn(2, 2, 3, seed=3))
    weighing, samples = torch.rand(5, 6), torch.tensor([3, 1])
    whole = 0.0
    for place, row in enumerate(samples.tolist()):
        for j in range(6):
            part, at = (0, j) if j < 4 else (1, j - 4)
            gap = output[part][place, at] - target[part][place, at]
            whole += float(weighing[row, j] * gap.square().sum())
    found = tokens.loss(weighing, "apart")(output, target, samples)
    assert float(found) == pytest.approx(whole / (2 * 6 * 3))
    plain = tokens.loss(None, "out")(output, target, samples)
    assert float(plain) == pytest.approx(float((output[0] - target[0]).square().mean()))


def learned(job: Job, factor: float) -> list[Tensor]:
    """What a block learns when all λ are multiplied by `factor`."""
    base = small.base("full")
    net = small.denoiser(1)
    name, given = small.observed(net)
    block = small.swapped(net, base).get_submodule(name)
    layers = quantized(block)
    groups = [[key] for key in layers]
    ones = {key: torch.ones(1, layer.in_features) for key, layer in layers.items()}
    attach(layers, groups, base, lambda: ones, 0)
    kinds = knobs(block)
    weighing = factor * tokens.with_text(given.received, given.video, 0.5, "apart")
    groups = [Group(parameters, 0.01) for parameters in kinds.values()]
    spec = ReconstructSpec(steps=6, batch=2, weight_decay=0.01, final=0.1, clip=None)
    loss = tokens.loss(weighing, "apart")
    reconstruct(block, given.records, groups, loss, spec, job=job, name=name, seed=0)
    return [parameter.detach() for group in groups for parameter in group.parameters]


def test_under_adam_only_ratios_of_the_weights_count(job: Job) -> None:
    """To multiply all λ, to a mean of 1 say, changes nothing: λ_min = ½ is twice the weight for a
    few tokens, and no other scale of the loss. (Powers of two, far above Adam's ε: any other
    factor changes last digits, and those some codes.)"""
    one, more, start = (learned(job, factor) for factor in (2.0**20, 2.0**24, 1e-30))
    moved = [float((a - s).abs().max()) for a, s in zip(one, start, strict=True)]
    apart = [float((a - b).abs().max()) for a, b in zip(one, more, strict=True)]
    assert min(moved) > 1e-3 and max(apart) < 1e-3 * max(moved)


def test_concentration_of_known_cases() -> None:
    even = tokens.concentration(torch.ones(3, 20))
    assert even["gini"] == pytest.approx(0, abs=1e-12) and even["top_tenth"] == pytest.approx(0.1)
    one = torch.zeros(1, 20)
    one[0, 7] = 5.0
    found = tokens.concentration(one)
    assert found["gini"] == pytest.approx(0.95) and found["top_tenth"] == pytest.approx(1)
    # For two values a and b of n/2 tokens each the Gini coefficient is |a - b| / (2(a + b)).
    half = torch.tensor([[1.0, 3.0] * 10])
    assert tokens.concentration(half)["gini"] == pytest.approx(0.25)
