"""Physical removal of channels: every tensor that a channel runs through is cut.

The released SepPrune scripts copy convolution weights only; biases, norms, activations and the
residual path start anew there. Here whatever a group's slices name is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from stages.prune.groups import ChannelGroup


def cut(
    state: Mapping[str, Tensor], groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state of the smaller net.

    Args:
        state: the full-size net's state dict; left untouched.
        groups: its channel groups.
        keep: group name -> strictly increasing int64 indices of the kept channels, at least one.

    Returns:
        A new state dict, same keys in the same order; with all channels kept, equal bit for bit.

    Raises:
        ValueError: a group is missing from `keep`, is empty, or has indices out of order or range.
    """
    stays: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        kept = _checked(group, keep)
        for part in group.slices:
            key = (part.parameter, part.dim)
            if key not in stays:
                stays[key] = torch.ones(state[part.parameter].shape[part.dim], dtype=torch.bool)
            block = stays[key][part.offset : part.offset + group.size]
            block.fill_(False)
            block[kept] = True
    small = {name: tensor.detach().clone() for name, tensor in state.items()}
    for (name, dim), stay in stays.items():
        small[name] = small[name].index_select(dim, stay.nonzero().flatten().to(small[name].device))
    return small


def as_masks(groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Kept indices as masks: group name -> (C,) of 0 and 1."""
    masks = {}
    for group in groups:
        mask = torch.zeros(group.size)
        mask[_checked(group, keep)] = 1.0
        masks[group.name] = mask
    return masks


def _checked(group: ChannelGroup, keep: Mapping[str, Tensor]) -> Tensor:
    kept = keep.get(group.name)
    if kept is None or len(kept) == 0:
        raise ValueError(f"group {group.name} keeps no channel")
    kept = kept.cpu()
    if int(kept[0]) < 0 or int(kept[-1]) >= group.size or bool((kept.diff() <= 0).any()):
        raise ValueError(f"group {group.name}: indices must increase within 0..{group.size - 1}")
    return kept
