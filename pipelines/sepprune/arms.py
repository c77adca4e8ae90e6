"""How each arm of SepPrune picks its channels; what every arm is cut to is the same budget.

An arm's cost is counted in updates, one per backward pass on a batch: learning masks and Taylor's
calibration passes count as much as fine-tuning does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from pipelines.sepprune.losses import training_loss
from pipelines.sepprune.model import build
from pipelines.sepprune.separators.frame import Separator
from stages.core.seeding import seed_all, seed_of
from stages.prune import criteria
from stages.prune.budget import channel_costs, top_k
from stages.prune.groups import ChannelGroup
from stages.prune.masks import jaccard, kept
from stages.prune.search import MaskSearch, SearchSpec, learn_masks
from stages.prune.surgery import cut

if TYPE_CHECKING:
    from stages.core.job import Job

Select = Literal[
    "concrete", "threshold", "joint", "random", "l1", "taylor", "scratch", "dense_more"
]
Keep = dict[str, Tensor]
Loss = Callable[[nn.Module, int], Tensor]


@dataclass(frozen=True)
class Task:
    """One backbone to cut with one seed.

    Attributes:
        dense: the teacher; never changed.
        groups: the channel groups that calibrate chose.
        budget: parameters that kept channels may take together.
        example: (1, samples), one second of silence, to trace and to count with.
        calibration: loss on calibrate's batches, by index.
        training: loss on fresh training mixtures, for weights learned during a search.
    """

    backbone: str
    seed: int
    dense: Separator
    groups: Sequence[ChannelGroup]
    budget: int
    example: Tensor
    calibration: Loss
    training: Loss
    search: SearchSpec
    taylor_batches: int
    weights_lr: float


@dataclass(frozen=True)
class Chosen:
    """A net ready to be fine-tuned.

    Attributes:
        spent: updates that count against the arm before its first fine-tuning update.
        searched: updates that its channels took, whether they are counted or not.
        jaccard: overlap of two draws of the learned mask; None where no mask was learned.
    """

    net: Separator
    keep: Keep
    spent: int
    searched: int
    jaccard: float | None = None


def choose(select: Select, task: Task, job: Job) -> Chosen:
    """Pick channels by one arm's rule and cut the net."""
    if select in ("concrete", "threshold", "joint", "scratch"):
        return _learned(select, task, job)
    if select == "dense_more":
        keep = {group.name: torch.arange(group.size) for group in task.groups}
        return Chosen(copy.deepcopy(task.dense), keep, 0, 0)
    dense = copy.deepcopy(task.dense)
    if select == "random":
        draw = seed_of("random channels", task.backbone, task.seed)
        scores = criteria.random(dense, task.groups, task.example, draw)
    elif select == "l1":
        scores = criteria.l1(dense, task.groups, task.example)
    else:
        scores = criteria.taylor(
            dense, task.groups, task.example, task.calibration, task.taylor_batches
        )
    spent = task.taylor_batches if select == "taylor" else 0
    keep = _affordable(task, scores)
    return Chosen(shrink(task.dense, task.groups, keep), keep, spent, spent)


def _learned(select: Select, task: Task, job: Job) -> Chosen:
    net, joint = copy.deepcopy(task.dense), select == "joint"
    source = task.training if joint else task.calibration
    search = learn_masks(
        net,
        task.groups,
        task.search,
        source,
        job=job,
        name=f"{task.backbone}-seed{task.seed}-{'joint' if joint else 'search'}",
        seed=seed_of("masks", task.backbone, task.seed),
        weights_lr=task.weights_lr if joint else None,
    )
    keep, overlap = _read(select, task, search)
    steps = task.search.steps
    if select == "scratch":
        # The paper charges its scratch nets nothing for the search that gave their widths.
        return Chosen(_fresh(task, keep), keep, 0, steps, overlap)
    small = shrink(search.net.requires_grad_(True), task.groups, keep)
    return Chosen(small, keep, steps, steps, overlap)


def _read(select: Select, task: Task, search: MaskSearch) -> tuple[Keep, float]:
    """What a finished search keeps, and the overlap of two further draws of its mask."""
    with torch.no_grad():
        alpha = {name: part.cpu() for name, part in search.by_group(search.importance()).items()}
        last = {name: part.cpu() for name, part in search.by_group(search.last).items()}
        overlap = jaccard(search.masks("first extra draw"), search.masks("second extra draw"))
    return kept(last, alpha) if select == "threshold" else _affordable(task, alpha), overlap


def _affordable(task: Task, scores: Mapping[str, Tensor]) -> Keep:
    costs = channel_costs(task.dense.state_dict(), task.groups)
    return top_k(scores, costs, task.budget)


def shrink(net: Separator, groups: Sequence[ChannelGroup], keep: Keep) -> Separator:
    """The smaller net with the kept channels' weights."""
    small = build(net.with_widths({name: len(index) for name, index in keep.items()}))
    small.load_state_dict(cut(net.state_dict(), groups, keep), strict=True)
    return small.to(next(net.parameters()).device)


def _fresh(task: Task, keep: Keep) -> Separator:
    seed_all("scratch", task.backbone, task.seed)
    small = build(task.dense.with_widths({name: len(index) for name, index in keep.items()}))
    return small.to(next(task.dense.parameters()).device)


def calibration_loss(
    batches: Path, seed: int, size: int, device: torch.device, drop_easy: bool
) -> Loss:
    """Training loss on calibrate's mixtures, in an order of the seed's own, over and over.

    Args:
        batches: calibrate's batches.safetensors: mix (N, T), sources (N, 2, T).
        seed: of the order, which is new in each pass over the mixtures.
        size: mixtures per batch.
    """
    from safetensors.torch import load_file

    tensors = load_file(batches)
    mix, sources = tensors["mix"], tensors["sources"]
    a_pass = max(1, len(mix) // size)

    def loss(model: Callable[[Tensor], Tensor], index: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of("order", seed, index // a_pass))
        order = torch.randperm(len(mix), generator=generator)
        rows = order[index % a_pass * size :][:size]
        estimate = model(mix[rows].to(device))
        return training_loss(estimate, sources[rows].to(device), drop_easy)

    return loss
