"""Teaching a quantized block, or a whole quantized model, to give what the teacher gave.

BRECQ (arXiv 2102.05426) by block, EfficientDM (arXiv 2310.03270) by model: inputs and targets come
from `stages.quantize.capture`, so the teacher is not run again, and one step is one forward and
one backward pass of the block over one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.core.errors import UserError
from stages.core.params import Params
from stages.core.seeding import seed_of
from stages.quantize.capture import Records


class ReconstructSpec(Params):
    """How long and how carefully; learning rates belong to the groups of parameters.

    `final` is the share of its learning rate that a group has left at the last step of the cosine.
    """

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    weight_decay: float = Field(ge=0)
    final: float = Field(ge=0, le=1)
    clip: float | None = Field(gt=0)


@dataclass(frozen=True)
class Group:
    """Parameters that learn at one rate."""

    parameters: Sequence[nn.Parameter]
    lr: float


CALM = "lower the learning rates or set 'clip'"

Loss = Callable[[Any, Any, Tensor], Tensor]
"""loss(output, target, samples) -> scalar: what the block gives, what the teacher gave, and the
int64 numbers of the batch's samples in the records, by which a loss finds weights of its own."""


def weighted_error(output: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over entries of λ_j·(output - target)², in single precision at least.

    With every λ_j = 1 the plain mean squared error. Equation 10 of S²Q-VDiT (arXiv 2508.04016) is
    this times the number of channels.

    Args:
        output, target: (B, n, d).
        weights: λ, (B, n) or (n,).
    """
    wide = torch.promote_types(output.dtype, torch.float32)
    squares = (output.to(wide) - target.to(wide)).square()
    if weights is None:
        return squares.mean()
    return (squares.mean(-1) * weights).mean()


def reconstruct(
    block: nn.Module,
    records: Records,
    groups: Sequence[Group],
    loss: Loss,
    spec: ReconstructSpec,
    *,
    job: Any,
    name: str,
    seed: int,
    penalty: Callable[[int], Tensor | float] | None = None,
) -> list[float]:
    """Fit the groups' parameters of `block` in place; every other one stays.

    AdamW with a cosine to `spec.final` of each group's rate; the block is in evaluation mode.
    The samples' order is a pure function of (name, seed): a new permutation each epoch.

    Args:
        records: inputs, and the teacher's outputs as targets. To feed the block what the quantized
            blocks before it give, take what was recorded of them with the teacher's outputs:
            `dataclasses.replace(student_records, outputs=teacher_records.outputs)`.
        penalty: penalty(step) for step 1, 2, … is added to the loss: a rounding regulariser.

    Returns:
        The loss of every step, with the penalty.

    Raises:
        UserError: there is no sample, or the loss is not finite, at a step or after the last.
        ValueError: there is no parameter to learn.
    """
    curve: list[float] = []
    with (
        learning(block, records, groups, loss, spec, name=name, seed=seed, penalty=penalty) as step,
        job.progress(spec.steps, name) as bar,
    ):
        for number in range(1, spec.steps + 1):
            curve.append(step(number))
            bar.advance(note=f"loss {curve[-1]:.3g}")
        # What the last update led to, no step has seen.
        samples = batch_of(len(records), spec.batch, spec.steps, name, seed)
        with torch.no_grad():
            last = _loss(block, records, loss, samples, next(block.parameters()).device)
        _finite(float(last), name, "after the last step")
    return curve


@contextmanager
def learning(
    block: nn.Module,
    records: Records,
    groups: Sequence[Group],
    loss: Loss,
    spec: ReconstructSpec,
    *,
    name: str,
    seed: int,
    penalty: Callable[[int], Tensor | float] | None = None,
) -> Iterator[Callable[[int], float]]:
    """Within the context, what was given makes an update of number 1, 2, … and says its loss.

    Arguments and errors are those of `reconstruct`; whoever leaves the context is told if what was
    learned is not finite.
    """
    if not len(records):
        raise UserError(f"{name}: nothing was recorded to reconstruct from")
    device = next(block.parameters()).device
    chosen = [p for group in groups for p in group.parameters]
    if not chosen:
        raise ValueError(f"{name}: no parameter is given to learn")
    optimizer, schedule = _optimizer(groups, spec)

    def step(number: int) -> float:
        samples = batch_of(len(records), spec.batch, number, name, seed)
        value = _loss(block, records, loss, samples, device)
        if penalty is not None:
            value = value + penalty(number)
        found = _finite(float(value.detach()), name, f"at step {number}")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if spec.clip is not None:
            nn.utils.clip_grad_norm_(chosen, spec.clip)
        optimizer.step()
        schedule.step()
        return found

    was_training = block.training
    block.eval()
    try:
        with _only(block, chosen):
            yield step
        if not all(bool(parameter.isfinite().all()) for parameter in chosen):
            raise UserError(f"{name}: what was learned is not finite; {CALM}")
    finally:
        block.train(was_training)


@torch.no_grad()
def mean_loss(block: nn.Module, records: Records, loss: Loss, batch: int) -> float:
    """Mean of `loss` over all records, each sample counted once."""
    device = next(block.parameters()).device
    total = 0.0
    for start in range(0, len(records), batch):
        samples = list(range(start, min(start + batch, len(records))))
        total += float(_loss(block, records, loss, samples, device)) * len(samples)
    return total / len(records)


def batch_of(count: int, batch: int, step: int, *names: int | str) -> list[int]:
    """The samples of step 1, 2, …: a pure function of its arguments.

    Permutations of all samples, one after the other, cut into batches: in any `count` batches
    every sample comes `batch` times.
    """
    places = range((step - 1) * batch, step * batch)
    epochs = sorted({place // count for place in places})
    orders = {e: _permutation(count, *names, e) for e in epochs}
    return [orders[place // count][place % count] for place in places]


def _permutation(count: int, *names: int | str) -> list[int]:
    generator = torch.Generator().manual_seed(seed_of("reconstruct", *names))
    return torch.randperm(count, generator=generator).tolist()


def _loss(
    block: nn.Module, records: Records, loss: Loss, samples: list[int], device: torch.device
) -> Tensor:
    given, target = records.batch(samples, device)
    return loss(given.call(block), target, torch.tensor(samples, device=device))


def _optimizer(
    groups: Sequence[Group], spec: ReconstructSpec
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(
        [{"params": list(group.parameters), "lr": group.lr} for group in groups],
        weight_decay=spec.weight_decay,
        fused=True,
    )

    def share(done: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * done / spec.steps))
        return spec.final + (1 - spec.final) * cosine

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


@contextmanager
def _only(block: nn.Module, chosen: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients for the chosen parameters alone: the others' would cost a third of the step."""
    before = {p: p.requires_grad for p in [*block.parameters(), *chosen]}
    for parameter in before:
        parameter.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)


def _finite(value: float, name: str, when: str) -> float:
    if not math.isfinite(value):
        raise UserError(f"{name}: the loss is {value} {when}; {CALM}")
    return value
