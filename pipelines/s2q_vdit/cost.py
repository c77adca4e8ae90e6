"""What an update of a block costs beside the full-precision block's own pass, for bench."""

from __future__ import annotations

from copy import deepcopy
from itertools import count

import torch
from torch import Tensor, nn

from pipelines.s2q_vdit import blocks, tokens
from pipelines.s2q_vdit.base import Base
from pipelines.s2q_vdit.blocks import Course, Given
from stages.bench import ratio
from stages.bench.ratio import Ratio
from stages.quantize.reconstruct import Loss, ReconstructSpec, learning
from stages.quantize.swap import restore


def of_update(
    block: nn.Module,
    name: str,
    given: Given,
    base: Base,
    weighing: Tensor | None,
    text: tokens.Text,
    course: Course,
    *,
    turns: int,
) -> Ratio:
    """Updates of `blocks.quantize` against passes of the block that it started from.

    A plain pass is forward and backward of one batch through the full-precision block, with
    gradients of all its own parameters: what a step of training it would cost without the
    optimiser. An update is all that reconstruction does in one: rows, forward, loss, backward,
    optimiser.

    Args:
        block: with quantized layers as `plan.prepare` leaves them; its transforms learn on.
        turns: updates and passes that count.
    """
    original = deepcopy(block)
    restore(original)
    original.requires_grad_(True)
    blocks.start(block, name, given, base, course.look, seed=0)
    goal = tokens.loss(weighing, text)
    spec = ReconstructSpec(
        steps=turns + 1, batch=course.batch, weight_decay=course.weight_decay,
        final=course.final, clip=course.norm,
    )  # fmt: skip
    numbers, rows = count(1), list(range(min(course.batch, len(given.records))))
    groups = blocks.groups(block, course)
    with learning(block, given.records, groups, goal, spec, name=name, seed=0) as step:
        return ratio.measure(
            lambda: _pass(original, given, rows, goal), lambda: step(next(numbers)), turns
        )


def _pass(block: nn.Module, given: Given, rows: list[int], goal: Loss) -> None:
    arguments, target = given.records.batch(rows, next(block.parameters()).device)
    block.zero_grad(set_to_none=True)
    # The block gives its target, and products of vanishing gradients would take another time.
    away = tuple(part + 1 for part in target) if isinstance(target, tuple) else target + 1
    goal(arguments.call(block), away, torch.tensor(rows)).backward()
