"""Which channels a parameter budget buys: a deterministic global ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from stages.prune.groups import ChannelGroup, parameters_per_channel


def channel_costs(state: Mapping[str, Tensor], groups: Sequence[ChannelGroup]) -> dict[str, int]:
    """Parameters that go when one channel of a group goes.

    Args:
        state: the full-size net's tensors by name.
        groups: channel groups; each names the tensors it runs through.

    Returns:
        Group name -> parameters per channel.

    Raises:
        ValueError: two groups cross in one tensor (rows of one, columns of the other), for which
            the cost of a channel would depend on the other group's choice.
    """
    axis: dict[str, int] = {}
    for group in groups:
        for part in group.slices:
            if axis.setdefault(part.parameter, part.dim) != part.dim:
                raise ValueError(f"{part.parameter} is cut along two dimensions")
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return {group.name: parameters_per_channel(group, shapes) for group in groups}


def prunable(groups: Sequence[ChannelGroup], costs: Mapping[str, int]) -> int:
    """Parameters that lie in channels of the groups; the rest of a net is out of reach."""
    return sum(group.size * costs[group.name] for group in groups)


def top_k(scores: Mapping[str, Tensor], costs: Mapping[str, int], budget: int) -> dict[str, Tensor]:
    """Keep the best channels of all groups that fit in `budget` parameters.

    Every group first keeps its best channel; the others follow by score across groups, and one
    that no longer fits is passed over for a cheaper one further down. So what is spent never
    exceeds `budget`, and what is left over buys none of the channels left out. Equal scores go to
    the earlier group, then the lower index.

    Args:
        scores: group name -> (C,), higher is better.
        costs: group name -> parameters per channel.
        budget: parameters that kept channels may take together.

    Returns:
        Group name -> sorted int64 indices of the kept channels.

    Raises:
        ValueError: a score is not finite, or one channel a group is already too much.
    """
    values = {name: score.detach().double().cpu() for name, score in scores.items()}
    bad = [name for name, value in values.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"scores of {', '.join(bad)} are not finite")
    best = {name: int(value.argmax()) for name, value in values.items()}
    left = budget - sum(costs[name] for name in values)
    if left < 0:
        raise ValueError(f"{budget} parameters do not buy one channel in each group")
    chosen = {name: [index] for name, index in best.items()}
    others = [
        (-float(value), order, index, name)
        for order, name in enumerate(values)
        for index, value in enumerate(values[name])
        if index != best[name]
    ]
    for _, _, index, name in sorted(others):
        if costs[name] <= left:
            left -= costs[name]
            chosen[name].append(index)
    return {name: torch.tensor(sorted(index)) for name, index in chosen.items()}
