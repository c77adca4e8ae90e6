"""What a training step takes, on noise: plain, distilled, and what it is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from pipelines.sdkd.names import label, net
from stages.bench import record
from stages.bench.training import StepCost
from stages.core.files import read_json
from stages.core.pictures import add_exhibit
from stages.prepare.tables import write_csv

FORWARD, OVER_PLAIN = "teacher_forward_ms", "step_over_plain"
NONE = "none"
LEARNING_RATE = 1e-3
"""Does not change what a step costs."""


def training_step(
    folder: str, batch: int, tune: str = "", calibrate: str = "", forward: bool = False
) -> Callable[[], float]:
    """One training step (Adam); gives its loss.

    Gradients are not clipped, as in the students' training; a teacher's training may clip them,
    which would add little to its step. Called by name in a process of its own; see
    `stages.bench.training`.

    Args:
        folder: of the trained network: its teacher's, or a student's of any arm.
        tune: folder of the arm whose loss is added; empty for the plain step.
        calibrate: where that arm's teachers' answers are.
        forward: no step, but one forward pass without gradients, as it would be asked of a teacher
            whose answers are not kept.
    """
    import torch
    from torch.nn import functional

    from pipelines.sdkd import cache
    from pipelines.sdkd.arms import Arm, Weights
    from pipelines.sdkd.model import load
    from pipelines.sdkd.pupil import Pupil

    network = load(Path(folder))
    shape, generator = network.shape, torch.Generator().manual_seed(0)
    grid = (shape.channels, shape.height, shape.width)
    x = torch.randn(batch, shape.history, *grid, generator=generator)
    y = torch.randn(batch, shape.horizon, *grid, generator=generator)
    if forward:

        def look() -> float:
            with torch.no_grad():
                return float(network(x)[0].sum())

        return look
    model: torch.nn.Module = network
    if tune:
        chosen = read_json(Path(tune) / "chosen.json")
        arm = Arm.model_validate(chosen["arm"])
        weights = next(iter(chosen["students"].values()))
        answers = cache.read(Path(calibrate), arm.teachers, arm.keys, torch.device("cpu"))
        model = Pupil(
            network,
            arm,
            Weights.model_validate(weights),
            answers,
            seed=0,
            steps=1000,
            fade="constant",
            bound=1.0,
        )
    model.train()
    count = len(_maps(model)[0]) if isinstance(model, Pupil) else batch
    index = torch.arange(batch) % count
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        forecast, latent = model(x)
        loss = functional.mse_loss(forecast, y)
        if isinstance(model, Pupil):
            loss = loss + model.lesson(forecast, latent, index, 1)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def _maps(model: Any) -> list[Any]:
    """All maps that a pupil's teachers gave."""
    return [m for memory in model.cache.teachers.values() for m in memory.maps.values()]


def rows(
    paper: str,
    student: str,
    seed: int,
    costs: Mapping[str, StepCost],
    measured: set[str],
) -> list[dict[str, Any]]:
    """Rows of the scores for what the steps of one student's arms take, turn by turn.

    Steps take turns, so that the n-th of each may be paired.

    Args:
        costs: by arm, the plain one `NONE`, the teacher's step `record.DENSE` and its forward
            pass `FORWARD`.
        measured: arms whose time and memory `record.score_rows` has already.
    """
    found: list[dict[str, Any]] = []

    def add(arm: str, metric: str, unit: str, values: list[float]) -> None:
        for turn, value in enumerate(values):
            row = record.counted_row(paper, student, arm, seed, metric, value, unit)
            found.append({**row, "item": f"{turn:03d}"})

    plain, forward = costs[NONE].milliseconds, costs[FORWARD].milliseconds
    add(record.DENSE, FORWARD, "ms", list(forward))
    for arm, cost in costs.items():
        if arm in (record.DENSE, FORWARD):
            continue
        if arm not in measured:
            add(arm, "train_step_ms", "ms", list(cost.milliseconds))
            memory = (paper, student, arm, seed, "train_memory_mb", cost.allocated_mb, "MB")
            found.append(record.counted_row(*memory))
        if arm != NONE:
            pairs = zip(cost.milliseconds, plain, strict=True)
            add(arm, OVER_PLAIN, "×", [own / base for own, base in pairs])
    return found


def summary(costs: Mapping[str, StepCost]) -> dict[str, dict[str, float]]:
    """Medians by arm: milliseconds, MB, and the ratio to the plain step (of the turns' ratios)."""
    plain = costs[NONE].milliseconds
    return {
        arm: {
            "step_ms": round(cost.median, 3),
            "memory_mb": round(cost.allocated_mb, 3),
            "over_plain": round(
                median(own / base for own, base in zip(cost.milliseconds, plain, strict=True)), 4
            ),
        }
        for arm, cost in costs.items()
    }


def show(out: Path, costs: Mapping[str, Mapping[str, StepCost]], batch: int) -> None:
    """Add the table of steps to a stage's exhibits.

    Args:
        costs: by student, as in `rows`.
    """
    table = [
        {
            "student": net(student),
            "step": {FORWARD: "teacher, forward pass only"}.get(arm, label(arm)),
            "ms": f"{values['step_ms']:.4g}",
            "against the plain step": f"{values['over_plain']:.4g}",
            "memory, MB": f"{values['memory_mb']:.4g}",
        }
        for student, own in costs.items()
        for arm, values in summary(own).items()
    ]
    write_csv(out / "steps.csv", table)
    add_exhibit(
        out,
        kind="table",
        name="steps",
        file="steps.csv",
        title="What distillation adds to a training step",
        caption=f"Processor time of a step on a batch of {batch}, the steps of all arms taking "
        "turns; medians. Distilled students read the teacher's answers from calibrate; the forward "
        "pass is what they would pay otherwise. Memory: peak of torch's allocator.",
    )
