"""Importance per channel by torch-pruning: the baselines that SepPrune is compared with.

torch-pruning finds the tensors of a channel by tracing, on its own, so it also serves as an oracle
for `surgery`. What is kept is chosen by `budget.top_k`, the same for every arm. Its importance
classes count the dense convolutions of a channel; depth-wise filters and norms are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.prune.groups import ChannelGroup

if TYPE_CHECKING:
    import torch_pruning


def random(
    model: nn.Module, groups: Sequence[ChannelGroup], example: Tensor, seed: int
) -> dict[str, Tensor]:
    """Uniform random importance: group name -> (C,).

    Args:
        model: the full-size net.
        groups: its channel groups.
        example: an input to trace it with.
        seed: of the draw; torch's own generator is left as it was.
    """
    import torch_pruning

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _score(torch_pruning.importance.RandomImportance(), model, groups, example)


def l1(model: nn.Module, groups: Sequence[ChannelGroup], example: Tensor) -> dict[str, Tensor]:
    """Sum of |weight| over a channel's dense convolutions: group name -> (C,).

    Divided by the group's mean (torch-pruning's default), without which layers that differ in
    scale cannot be ranked together.
    """
    import torch_pruning

    importance = torch_pruning.importance.GroupMagnitudeImportance(
        p=1, group_reduction="sum", normalizer="mean"
    )
    return _score(importance, model, groups, example)


def taylor(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    example: Tensor,
    loss: Callable[[nn.Module, int], Tensor],
    batches: int,
) -> dict[str, Tensor]:
    """|sum weight * gradient| over a channel's dense convolutions: group name -> (C,).

    First-order estimate of what the loss changes when the channel goes (Molchanov et al. 2019),
    with the gradient summed over `batches` backward passes. It is in units of the loss, so groups
    are ranked together as they are.

    Args:
        model: the full-size net; evaluated with dropout off, its weights stay, its gradients are
            cleared at the end.
        loss: loss(model, i) for i = 0, 1, …; a scalar.
        batches: how many backward passes.
    """
    import torch_pruning

    importance = torch_pruning.importance.GroupTaylorImportance(
        group_reduction="sum", normalizer=None, multivariable=True
    )
    model.eval()
    model.zero_grad(set_to_none=True)
    for index in range(batches):
        loss(model, index).backward()
    scores = _score(importance, model, groups, example)
    model.zero_grad(set_to_none=True)
    return scores


def dependencies(
    model: nn.Module, groups: Sequence[ChannelGroup], example: Tensor
) -> torch_pruning.DependencyGraph:
    """torch-pruning's dependency graph of `model`, which it leaves in eval mode.

    Norms of the classes that the groups name hold one value per channel and parameter, which
    torch-pruning must be told.
    """
    import torch_pruning

    kinds = {type(model.get_submodule(norm)) for group in groups for norm in group.norms}
    graph = torch_pruning.DependencyGraph()
    pruner = _norm_pruner()
    with torch.enable_grad():
        return graph.build_dependency(
            model,
            example_inputs=(example,),
            customized_pruners={kind: pruner for kind in kinds},
            verbose=False,
        )


def removal(
    graph: torch_pruning.DependencyGraph, model: nn.Module, group: ChannelGroup, indices: list[int]
) -> Any:
    """torch-pruning's own group for removing channels `indices` of `group`; `.prune()` does it."""
    import torch_pruning

    producer = model.get_submodule(group.producer)
    return graph.get_pruning_group(producer, torch_pruning.prune_conv_out_channels, indices)


def _score(
    importance: Callable[[Any], Tensor],
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    example: Tensor,
) -> dict[str, Tensor]:
    graph = dependencies(model, groups, example)
    return {
        group.name: importance(removal(graph, model, group, list(range(group.size)))).cpu()
        for group in groups
    }


def _norm_pruner() -> Any:
    import torch_pruning

    class PerChannel(torch_pruning.pruner.function.BasePruningFunc):
        """Parameters of one value per channel, each in its only dimension longer than one."""

        def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
            gone = set(idxs)
            for name, values in list(layer.named_parameters(recurse=False)):
                kept = [i for i in range(values.numel()) if i not in gone]
                dim = list(values.shape).index(values.numel())
                setattr(layer, name, self._prune_parameter_and_grad(values, kept, dim))
            return layer

        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: nn.Module) -> int:
            return next(layer.parameters(recurse=False)).numel()

        get_in_channels = get_out_channels

    return PerChannel()
