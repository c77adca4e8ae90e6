"""Masks: the noisy threshold, its gradient, and traps 1 to 3 of the notes on SepPrune."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stages.prune import masks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_noise_is_standard_gumbel() -> None:
    noise = masks.gumbel(200_000, generator())
    assert torch.isfinite(noise).all()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_trap_1_equation_5_as_printed_deletes_nearly_everything() -> None:
    draws, channels = 200, 512
    top, kept = [], []
    for seed in range(draws):
        alpha = torch.rand(channels, generator=generator(seed))
        pi = masks.softmax_as_printed(alpha, masks.gumbel(channels, generator(~seed)), 1.0)
        assert float(pi.sum()) == pytest.approx(1.0, abs=1e-4)
        top.append(float(pi.max()))
        kept.append(int(masks.threshold(pi, 0.7).sum()))
    # Entries sum to one, so at most one of 512 channels can pass; in 19 of 20 draws none does.
    assert max(kept) <= 1 and sum(kept) < 0.1 * draws
    assert 0.1 < sorted(top)[draws // 2] < 0.3
    sigmoid = masks.draw(torch.rand(channels), masks.gumbel(channels, generator()), 1.0, 0.7)
    assert 0.4 < float(sigmoid.mean()) < 0.6


@pytest.mark.parametrize(
    ("eps", "share"), [(0.5, 0.80), (0.6, 0.67), (0.7, 0.51), (0.8, 0.35), (0.9, 0.18)]
)
def test_trap_2_the_threshold_is_no_pruning_rate(eps: float, share: float) -> None:
    size = 100_000
    alpha = torch.rand(size, generator=generator(1))
    mask = masks.draw(alpha, masks.gumbel(size, generator(2)), 1.0, eps)
    assert float(mask.mean()) == pytest.approx(share, abs=0.01)


def test_trap_3_two_draws_of_the_same_alpha_differ_in_most_channels() -> None:
    alpha = torch.rand(2000, generator=generator(1))
    first, second = (
        {"g": masks.draw(alpha, masks.gumbel(2000, generator(seed)), 1.0, 0.7)} for seed in (2, 3)
    )
    assert 0.25 < masks.jaccard(first, second) < 0.45
    # A learned alpha far from the threshold leaves the noise little to decide.
    sure = torch.where(alpha > 0.5, 8.0, -8.0)
    first, second = (
        {"g": masks.draw(sure, masks.gumbel(2000, generator(seed)), 1.0, 0.7)} for seed in (2, 3)
    )
    assert masks.jaccard(first, second) > 0.95


def test_jaccard_counts_over_all_groups() -> None:
    first = {"a": torch.tensor([1.0, 1.0, 0.0]), "b": torch.tensor([0.0, 1.0])}
    second = {"a": torch.tensor([1.0, 0.0, 0.0]), "b": torch.tensor([1.0, 1.0])}
    assert masks.jaccard(first, second) == 2 / 4
    assert masks.jaccard(first, first) == 1.0
    nothing = {"a": torch.zeros(3)}
    assert masks.jaccard(nothing, nothing) == 1.0


def test_a_mask_is_zero_or_one_and_follows_the_threshold() -> None:
    alpha = torch.linspace(-2, 2, 41)
    noise = torch.zeros(41)
    mask = masks.draw(alpha, noise, 1.0, 0.5)
    assert set(mask.tolist()) == {0.0, 1.0}
    assert torch.equal(mask, (alpha > 0).float())
    assert torch.equal(masks.draw(alpha, noise, 0.1, 0.5), mask)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_the_straight_through_gradient_is_the_closed_form(tau: float) -> None:
    size = 64
    alpha = torch.randn(size, generator=generator(3)).requires_grad_()
    noise = masks.gumbel(size, generator(4))
    weight = 4 * torch.randn(size, generator=generator(5))
    (weight * masks.draw(alpha, noise, tau, 0.7)).sum().backward()
    pi = torch.sigmoid((alpha.detach() + noise) / tau)
    expected = (weight / 2).clamp(-1, 1) * pi * (1 - pi) / tau
    assert alpha.grad is not None
    torch.testing.assert_close(alpha.grad, expected)
    dropped = masks.draw(alpha.detach(), noise, tau, 0.7) == 0
    assert dropped.any() and (alpha.grad[dropped] != 0).all()


def test_masked_sets_every_norm_of_a_group_and_clears_them(
    toy: Callable[..., nn.Module], example: Tensor
) -> None:
    net = toy()
    groups = net.groups()
    chosen = {"wide.0": torch.tensor([1.0, 0, 1, 0, 1, 0]), "wide.1": torch.ones(5)}
    norms = {name: net.get_submodule(name) for name in ("norm.0", "after", "norm.1")}
    plain = net(example)
    with masks.masked(net, groups, chosen):
        assert norms["norm.0"].mask is norms["after"].mask is chosen["wide.0"]
        assert norms["norm.1"].mask is chosen["wide.1"]
        assert not torch.allclose(net(example), plain)
    assert all(norm.mask is None for norm in norms.values())
    assert torch.equal(net(example), plain)
    with pytest.raises(RuntimeError, match="boom"), masks.masked(net, groups, chosen):
        raise RuntimeError("boom")
    assert all(norm.mask is None for norm in norms.values())
    with pytest.raises(KeyError), masks.masked(net, groups, {"wide.0": chosen["wide.0"]}):
        pass


def test_the_literal_rule_keeps_what_was_drawn_but_never_an_empty_layer() -> None:
    drawn = {"a": torch.tensor([1.0, 0.0, 1.0]), "b": torch.zeros(4)}
    scores = {"a": torch.tensor([0.1, 9.0, 0.3]), "b": torch.tensor([0.1, 0.2, 0.9, 0.3])}
    kept = masks.kept(drawn, scores)
    assert kept["a"].tolist() == [0, 2]
    assert kept["b"].tolist() == [2]
