"""Channels of the real separators: masks, surgery and torch-pruning agree on what a channel is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipelines.sepprune.arms import shrink
from pipelines.sepprune.model import build
from pipelines.sepprune.separators.frame import Separator
from stages.prune import criteria
from stages.prune.budget import channel_costs, prunable, top_k
from stages.prune.masks import masked
from stages.prune.surgery import as_masks, cut

FRAME = {"voices": 2, "basis": 10, "kernel": 21, "stride": 10, "bottleneck": 6, "depth": 3}
CONFIGS = {
    "sudormrf": {**FRAME, "hidden": 9, "blocks": 2},
    "afrcnn": {**FRAME, "hidden": 9, "iterations": 3},
    "tdanet": {
        **FRAME, "kernel": 16, "stride": 4, "hidden": 8, "ffn": 11, "heads": 2, "iterations": 2,
        "attention_axis": "time",
    },
}  # fmt: skip


@pytest.fixture(params=CONFIGS)
def net(request: pytest.FixtureRequest) -> Separator:
    """Each separator, tiny, with every parameter random (fresh gains of one would hide errors)."""
    torch.manual_seed(0)
    made = build({"name": request.param, **CONFIGS[request.param]}).eval()
    for values in made.parameters():
        values.data += 0.1 * torch.randn_like(values)
    return made


@pytest.fixture
def mix() -> Tensor:
    return torch.randn(2, 480, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def keep(net: Separator) -> dict[str, Tensor]:
    """Half of the budget, by random scores."""
    generator = torch.Generator().manual_seed(2)
    costs = channel_costs(net.state_dict(), net.groups())
    scores = {g.name: torch.rand(g.size, generator=generator) for g in net.groups()}
    return top_k(scores, costs, prunable(net.groups(), costs) // 2)


def test_trap_4_the_cut_net_equals_the_masked_net(
    net: Separator, mix: Tensor, keep: dict[str, Tensor]
) -> None:
    small = shrink(net, net.groups(), keep).eval()
    with torch.no_grad(), masked(net, net.groups(), as_masks(net.groups(), keep)):
        reference = net(mix)
    with torch.no_grad():
        torch.testing.assert_close(small(mix), reference, rtol=1e-4, atol=1e-5)
        assert float((net(mix) - reference).abs().max()) > 1e-3


def test_trap_5_with_all_channels_the_output_is_equal_bit_for_bit(
    net: Separator, mix: Tensor
) -> None:
    everything = {group.name: torch.arange(group.size) for group in net.groups()}
    with torch.no_grad():
        plain = net(mix)
        assert torch.equal(shrink(net, net.groups(), everything).eval()(mix), plain)
        with masked(net, net.groups(), as_masks(net.groups(), everything)):
            assert torch.equal(net(mix), plain)


def test_our_surgery_equals_torch_prunings(
    net: Separator, mix: Tensor, keep: dict[str, Tensor]
) -> None:
    ours, groups = cut(net.state_dict(), net.groups(), keep), net.groups()
    small = shrink(net, groups, keep).eval()
    graph = criteria.dependencies(net, groups, mix)
    for group in groups:
        gone = sorted(set(range(group.size)) - set(keep[group.name].tolist()))
        criteria.removal(graph, net, group, gone).prune()
    theirs = net.state_dict()
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in small.parameters())


def test_budgets_are_met_within_one_channel(net: Separator) -> None:
    groups = net.groups()
    costs = channel_costs(net.state_dict(), groups)
    whole = sum(p.numel() for p in net.parameters())
    fixed = whole - prunable(groups, costs)
    for share in (0.3, 0.5, 0.9):
        budget = int(share * prunable(groups, costs))
        scores = criteria.l1(net, groups, torch.randn(1, 480))
        small = shrink(net, groups, top_k(scores, costs, budget))
        spent = sum(p.numel() for p in small.parameters()) - fixed
        assert budget - max(costs.values()) < spent <= budget


@pytest.mark.parametrize("name", ["afrcnn", "tdanet"])
def test_trap_6_one_mask_serves_all_iterations_and_sums_their_gradients(
    name: str, mix: Tensor
) -> None:
    torch.manual_seed(0)
    net = build({"name": name, **CONFIGS[name]}).eval()
    uses, groups = CONFIGS[name]["iterations"], net.groups()
    shared = {g.name: torch.ones(g.size).requires_grad_() for g in groups}
    with masked(net, groups, shared):
        net(mix).square().mean().backward()
    own = [{g.name: torch.ones(g.size).requires_grad_() for g in groups} for _ in range(uses)]
    for group in groups:
        (norm,) = group.norms
        turns = iter([masks[group.name] for masks in own])
        net.get_submodule(norm).register_forward_pre_hook(
            lambda module, _, turns=turns: setattr(module, "mask", next(turns))
        )
    net(mix).square().mean().backward()
    for group in groups:
        parts = [masks[group.name].grad for masks in own]
        # TDANet's first iterations may weigh little, but each use has its share.
        assert all(part is not None and float(part.abs().max()) > 0 for part in parts)
        torch.testing.assert_close(shared[group.name].grad, sum(parts), rtol=1e-4, atol=1e-7)
