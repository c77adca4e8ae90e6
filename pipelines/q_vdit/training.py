"""Learning of an arm's parameters, over the model's output or block by block."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field
from torch import Tensor, nn

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.q_vdit import plan
from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.samples import Whole, run
from pipelines.q_vdit.student import Ground
from pipelines.q_vdit.tmd import Objective, temporal_only
from stages.core.job import Job
from stages.core.params import Params
from stages.quantize.capture import Records, capture
from stages.quantize.layers import knobs, plain, quantized, set_state
from stages.quantize.lowrank import scale_aware_rate
from stages.quantize.reconstruct import (
    Group,
    Loss,
    ReconstructSpec,
    mean_loss,
    reconstruct,
    weighted_error,
)


class Rates(Params):
    """Learning rates.

    Attributes:
        scale: of the weights' steps (1e-6 in the paper).
        branch: of α, β, M and inner branches (1e-5 in the paper), but for arms with their own.
        divisor: of `scale_aware` inner branches: a layer's mean step over this.
    """

    scale: float = Field(gt=0)
    branch: float = Field(gt=0)
    divisor: float = Field(gt=0)


def groups(model: nn.Module, arm: Arm, rates: Rates) -> list[Group]:
    """What of `model` learns, and at which rates."""
    found, branch = knobs(model), arm.branch_rate or rates.branch
    made = [Group(found["scale"], rates.scale)]
    if "beside" in found:
        made.append(Group(found["beside"], branch))
    if "inner" in found and arm.rates == "plain":
        made.append(Group(found["inner"], branch))
    elif "inner" in found:
        for layer in quantized(model).values():
            assert layer.weights.scale is not None
            rate = scale_aware_rate(layer.weights.scale, rates.divisor)
            made.append(Group(layer.knobs()["inner"], rate))
    return made


def trainable(student: Denoiser, arm: Arm) -> dict[str, int]:
    """Numbers that learn, by kind and in all; none where the arm does not learn."""
    learned = ("scale", "inner", "beside") if arm.scope != "none" else ()
    found = knobs(student)
    counts = {kind: sum(p.numel() for p in found[kind]) for kind in learned if kind in found}
    return {**counts, "all": sum(counts.values())}


def learn(
    student: Denoiser,
    arm: Arm,
    ground: Ground,
    spec: ReconstructSpec,
    rates: Rates,
    held: int,
    *,
    job: Job,
    name: str,
) -> list[dict[str, float]]:
    """Fit the student in place; both quantizers are on afterwards.

    Every parameter gets `spec.steps` updates in either scope, so all scopes cost the same. The
    order of samples depends on `name` and the seed alone: arms of a cell share it.

    Args:
        held: blocks whose activations are held at a time.

    Returns:
        The curve, a row an update: step, loss, and the block's place (0 for the whole model).
    """
    rows: list[dict[str, float]] = []
    if arm.scope == "model":
        set_state(student, weights=True, inputs=arm.inputs)
        curve = reconstruct(
            Whole(student), ground.records(masked=arm.masked), groups(student, arm, rates),
            Objective(arm.temporal), spec, job=job, name=name, seed=ground.seed,
        )  # fmt: skip
        rows += _rows(0, curve)
    elif arm.scope == "block":
        given = captured(student, ground.records(), spec.batch, held)
        for place, (path, records) in enumerate(given):
            block = student.get_submodule(path)
            curve = reconstruct(
                block, records, groups(block, arm, rates), _error, spec, job=job,
                name=f"{name} {path}", seed=ground.seed,
            )  # fmt: skip
            rows += _rows(place, curve)
    set_state(student, weights=True, inputs=True)
    return rows


def captured(
    student: Denoiser, records: Records, batch: int, held: int
) -> Iterator[tuple[str, Records]]:
    """Every block in order, with what the teacher's is given and gives on all samples.

    The teacher is run once for every `held` blocks. Blocks are given the teacher's inputs, not
    those that the quantized blocks before them would give [inferred].
    """
    paths, whole = plan.blocks(student), Whole(student)
    for start in range(0, len(paths), held):
        group = paths[start : start + held]
        with plain(student), capture(whole, [f"denoiser.{path}" for path in group]) as found:
            run(whole, records, batch)
        for path in group:
            yield path, found.pop(f"denoiser.{path}")


def measures(student: Denoiser, ground: Ground, batch: int) -> dict[str, float]:
    """Error of the output and the temporal term, unweighted, over the calibration set."""
    losses: dict[str, Loss] = {"error": Objective(None), "temporal": temporal_only}
    total = dict.fromkeys(losses, 0.0)

    def both(output: Tensor, target: Tensor, samples: Tensor) -> Tensor:
        for name, loss in losses.items():
            total[name] += float(loss(output, target, samples)) * len(samples)
        return output.new_zeros(())

    # In one pass: on a narrow network it costs as much as thirty updates.
    records = ground.records()
    mean_loss(Whole(student), records, both, batch)
    return {name: value / len(records) for name, value in total.items()}


def _error(output: Tensor, target: Tensor, _: Tensor) -> Tensor:
    return weighted_error(output, target)


def _rows(block: int, curve: list[float]) -> list[dict[str, float]]:
    return [{"step": k + 1, "loss": value, "block": block} for k, value in enumerate(curve)]
