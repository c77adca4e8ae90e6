"""Importance by torch-pruning against closed forms, and its surgery against ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stages.prune import criteria
from stages.prune.surgery import cut


def test_l1_is_the_sum_of_the_weights_over_their_mean(
    toy: Callable[..., nn.Module], example: Tensor
) -> None:
    net = toy()
    scores = criteria.l1(net, net.groups(), example)
    narrow = net.narrow.weight.detach()
    for name, conv, columns in (
        ("wide.0", net.wide[0], narrow[:, :6]),
        ("wide.1", net.wide[1], narrow[:, 6:]),
    ):
        sums = conv.weight.detach().abs().sum((1, 2)) + columns.abs().sum((0, 2))
        torch.testing.assert_close(scores[name], sums / sums.mean())


def test_taylor_is_the_sum_of_weight_times_gradient_over_batches(
    toy: Callable[..., nn.Module], example: Tensor
) -> None:
    net = toy()

    def loss(model: nn.Module, index: int) -> Tensor:
        assert not model.training
        return model(example + index).square().mean()

    scores = criteria.taylor(net.train(), net.groups(), example, loss, 3)
    assert all(p.grad is None for p in net.parameters())
    for index in range(3):
        loss(net.eval(), index).backward()
    rows = [(conv.weight * conv.weight.grad).sum((1, 2)).abs() for conv in net.wide]
    columns = (net.narrow.weight * net.narrow.weight.grad).sum((0, 2)).abs()
    torch.testing.assert_close(scores["wide.0"], (rows[0] + columns[:6]).detach())
    torch.testing.assert_close(scores["wide.1"], (rows[1] + columns[6:]).detach())


def test_random_depends_on_its_seed_alone(toy: Callable[..., nn.Module], example: Tensor) -> None:
    net = toy()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = criteria.random(net, net.groups(), example, 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = (criteria.random(net, net.groups(), example, seed) for seed in (1, 2))
    assert {name: len(values) for name, values in first.items()} == {"wide.0": 6, "wide.1": 5}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_our_surgery_equals_torch_prunings(toy: Callable[..., nn.Module], example: Tensor) -> None:
    keep = {"wide.0": torch.tensor([0, 2, 5]), "wide.1": torch.tensor([1, 4])}
    net = toy()
    ours = cut(net.state_dict(), net.groups(), keep)
    groups = net.groups()
    graph = criteria.dependencies(net, groups, example)
    for group in groups:
        gone = sorted(set(range(group.size)) - set(keep[group.name].tolist()))
        criteria.removal(graph, net, group, gone).prune()
    theirs = net.state_dict()
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
