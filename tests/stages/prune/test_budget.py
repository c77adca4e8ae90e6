"""The budget: best channels first, never above it, and within one channel of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stages.prune.budget import channel_costs, prunable, top_k
from stages.prune.groups import ChannelGroup, Slice
from stages.prune.surgery import cut


def total(scores: dict[str, Tensor], keep: dict[str, Tensor]) -> float:
    return sum(float(scores[name][index].sum()) for name, index in keep.items())


@pytest.mark.parametrize("count", range(2, 9))
def test_at_equal_costs_it_finds_what_brute_force_finds(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    scores = {name: torch.randn(4, generator=generator) for name in "ab"}
    keep = top_k(scores, {"a": 7, "b": 7}, 7 * count + 3)
    everything = [(name, index) for name in "ab" for index in range(4)]
    best = max(
        sum(float(scores[name][index]) for name, index in chosen)
        for chosen in combinations(everything, count)
        if {name for name, _ in chosen} == {"a", "b"}
    )
    assert sum(map(len, keep.values())) == count
    assert total(scores, keep) == pytest.approx(best, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    costs=st.lists(st.integers(1, 40), min_size=4, max_size=4),
    share=st.floats(0, 1, allow_subnormal=False),
    seed=st.integers(0, 99),
)
def test_what_is_left_over_buys_no_channel_that_was_left_out(
    sizes: list[int], costs: list[int], share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    price = {f"g{i}": cost for i, cost in enumerate(costs[: len(sizes)])}
    scores = {f"g{i}": torch.randn(size, generator=generator) for i, size in enumerate(sizes)}
    least, most = sum(price.values()), sum(price[n] * len(s) for n, s in scores.items())
    budget = least + int(share * (most - least))
    keep = top_k(scores, price, budget)
    left = budget - sum(price[name] * len(index) for name, index in keep.items())
    assert left >= 0
    for name, score in scores.items():
        index = keep[name]
        assert len(index) >= 1 and int(score.argmax()) in index.tolist()
        assert index.tolist() == sorted(set(index.tolist()))
        assert len(index) == len(score) or left < price[name]
        # Within a group the kept channels are the best ones.
        rest = [float(v) for i, v in enumerate(score) if i not in set(index.tolist())]
        assert not rest or min(map(float, score[index])) >= max(rest)


def test_equal_scores_go_to_the_earlier_group_then_the_lower_index() -> None:
    scores = {"a": torch.zeros(3), "b": torch.zeros(3)}
    keep = top_k(scores, {"a": 1, "b": 1}, 4)
    assert {name: index.tolist() for name, index in keep.items()} == {"a": [0, 1, 2], "b": [0]}


def test_it_refuses_what_it_cannot_rank_or_afford() -> None:
    with pytest.raises(ValueError, match="scores of b are not finite"):
        top_k({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}, {"a": 1, "b": 1}, 4)
    with pytest.raises(ValueError, match="do not buy one channel in each group"):
        top_k({"a": torch.ones(2), "b": torch.ones(2)}, {"a": 3, "b": 3}, 5)


def test_a_channel_costs_what_surgery_takes_away(toy: Callable[..., nn.Module]) -> None:
    net = toy()
    groups, state = net.groups(), net.state_dict()
    costs = channel_costs(state, groups)
    # Row and bias of the conv, gain and shift, slope, filter of 3 and bias, gain and shift, column.
    assert costs == {"wide.0": 4 + 1 + 2 + 1 + 4 + 2 + 4, "wide.1": 4 + 1 + 2 + 1 + 4}
    assert prunable(groups, costs) == 6 * 18 + 5 * 12
    whole = sum(values.numel() for values in state.values())
    keep = {"wide.0": torch.tensor([0, 4]), "wide.1": torch.tensor([1, 2, 3])}
    small = sum(values.numel() for values in cut(state, groups, keep).values())
    assert whole - small == 4 * 18 + 2 * 12


def test_groups_that_cross_in_one_tensor_have_no_fixed_cost() -> None:
    groups = (
        ChannelGroup("rows", 3, "a", (Slice("weight", 0),), ()),
        ChannelGroup("columns", 4, "b", (Slice("weight", 1),), ()),
    )
    with pytest.raises(ValueError, match="weight is cut along two dimensions"):
        channel_costs({"weight": torch.ones(3, 4)}, groups)
