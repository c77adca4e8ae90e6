"""What a training step takes: the step itself, on noise, and what it is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipelines.merlin.names import NETS, label
from stages.bench import record
from stages.bench.training import StepCost
from stages.core.files import read_json
from stages.core.pictures import add_exhibit
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.merlin.data import Window

LEARNING_RATE, WEIGHT_DECAY, CLIP = 2e-4, 1e-4, 5.0
"""Of the published training; none changes what a step costs."""
PLAIN = {
    "forecast": 1.0, "teacher": 0.0, "contrast": 0.0, "temperature": 1.0, "full_epochs": 0,
    "decay": False, "apart": False,
}  # fmt: skip
"""Weights of a teacher's loss: the forecast's error alone."""
FORWARD, RATIO = "teacher_forward_ms", "step_over_plain_and_teacher"
OVER_PLAIN, OVER_BOTH = "against the plain step", "against plain step and forward pass"
OVER_MEMORY = "memory against the plain step"


def training_step(
    folder: str, teacher: str, batch: int, forward: bool = False
) -> Callable[[], float]:
    """One training step as published (Adam, gradients clipped), on noise; gives its loss.

    Called by name in a process of its own; see `stages.bench.training`.

    Args:
        folder: of an arm's seed, or the teacher's own: complete histories, no other net.
        teacher: the teacher's folder.
        forward: no step, but one forward pass of the net in `folder`, as a teacher's.
    """
    import torch

    from pipelines.merlin.arms import Arm, Weights
    from pipelines.merlin.impute import inputs
    from pipelines.merlin.model import build, load
    from pipelines.merlin.training import objective

    trained = load(Path(folder))
    window, kept = _noise(trained.config, batch)
    if forward:

        def look() -> float:
            with torch.no_grad():
                return float(trained(window.x, window.tod, window.dow)[0].sum())

        return look
    told = read_json(Path(folder) / "training.json")
    parts = told.get("arm", {})
    arm = Arm.model_validate({"backbones": ["stid"], "datasets": ["any"], **parts})
    weights = Weights.model_validate(told.get("weights", PLAIN))
    model = build({**trained.config, "code": told.get("code", 0)}).train()
    model.load_state_dict(trained.state_dict(), strict=False)
    taught = load(Path(teacher)).requires_grad_(False) if arm.taught else None
    seen = [kept] * len(told.get("views", ()))
    if arm.clean or not seen:
        seen.append(window.observed)
    x = torch.cat([inputs(arm.input, window, mask) for mask in seen])
    optimiser = torch.optim.Adam(
        model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
    )

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        loss = objective(model, window, x, arm, weights, taught, 1.0, None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        return loss.item()

    return step


def _noise(config: Mapping[str, Any], batch: int) -> tuple[Window, Tensor]:
    """Windows that fit a forecaster, all recorded, and a mask that keeps half of their values."""
    import torch

    from pipelines.merlin.data import Window

    generator = torch.Generator().manual_seed(0)
    past = (batch, config["history"], config["sensors"])
    ahead = (batch, config["horizon"], config["sensors"])
    clock = torch.zeros(past[:2], dtype=torch.int64)
    window = Window(
        torch.rand(past, generator=generator), torch.ones(past).bool(), clock, clock,
        torch.rand(ahead, generator=generator), torch.ones(ahead).bool(),
    )  # fmt: skip
    return window, torch.rand(past, generator=generator) > 0.5


def step_rows(
    paper: str,
    plain: str,
    measured: Sequence[record.Measured],
    forwards: Mapping[str, StepCost],
) -> list[dict[str, Any]]:
    """Rows of the scores for what the method adds to a step, turn by turn.

    The ratio is a step's time over that of the plain arm's step and a teacher's forward pass.

    Args:
        plain: the arm without a teacher.
        forwards: by backbone, one forward pass of the teacher without gradients.
    """
    rows: list[dict[str, Any]] = []
    for own in measured:
        net, forward = own.network, forwards[own.network.backbone]
        if net.variant == record.DENSE:
            metric, unit, values = FORWARD, "ms", list(forward.milliseconds)
        else:
            metric, unit, values = RATIO, "×", ratios(own, _plain(plain, measured, net), forward)
        cell = (net.backbone, net.variant, net.seed)
        rows += [
            {**record.counted_row(paper, *cell, metric, value, unit), "item": f"{turn:03d}"}
            for turn, value in enumerate(values)
        ]
    return rows


def ratios(own: record.Measured, base: record.Measured | None, forward: StepCost) -> list[float]:
    """A step's time over that of the plain arm's and a teacher's forward pass, turn by turn.

    Empty where the plain arm is not measured, and for itself.
    """
    if base is None or base is own:
        return []
    times = (own.step.milliseconds, base.step.milliseconds, forward.milliseconds)
    return [mine / (other + more) for mine, other, more in zip(*times, strict=True)]


def summary(
    plain: str, measured: Sequence[record.Measured], forwards: Mapping[str, StepCost]
) -> dict[str, Any]:
    """`record.metrics`, and the medians of what `step_rows` has turn by turn."""
    found = record.metrics(measured)
    for own in measured:
        net = own.network
        entry = found[net.backbone][net.name.removeprefix(f"{net.backbone}-")]
        entry["train_step_ms"] = round(own.step.median, 3)
        forward = forwards[net.backbone]
        if net.variant == record.DENSE:
            entry[FORWARD] = round(forward.median, 3)
        elif turns := ratios(own, _plain(plain, measured, net), forward):
            entry[RATIO] = round(median(turns), 4)
    return found


def show_steps(
    out: Path,
    plain: str,
    measured: Sequence[record.Measured],
    forwards: Mapping[str, StepCost],
    batch: int,
) -> None:
    """Add the table of steps to the exhibits: every arm beside the plain one.

    The teacher's own step has one view of a window where the others have four and more, and is
    held against nothing.
    """
    rows: list[dict[str, str]] = []
    for own in measured:
        net, forward = own.network, forwards[own.network.backbone]
        base = _plain(plain, measured, net)
        turns = ratios(own, base, forward)
        row = _row(net.backbone, label(net.variant), str(net.seed), own.step)
        if net.variant == record.DENSE:
            look = _row(net.backbone, "teacher, forward pass only", str(net.seed), forward)
            rows += [row | {"step": "teacher (one view)"}, look]
            continue
        if base is not None:
            over = own.step.median / base.step.median
            row[OVER_PLAIN] = f"{over:.3g}"
            row[OVER_MEMORY] = f"{own.step.allocated_mb / base.step.allocated_mb:.3g}"
        row[OVER_BOTH] = f"{median(turns):.3g}" if turns else ""
        rows.append(row)
    write_csv(out / "steps.csv", rows)
    add_exhibit(
        out,
        kind="table",
        name="steps",
        file="steps.csv",
        title="What the method adds to a training step",
        caption=f"Processor time of a step on a batch of {batch} windows, each under all views of "
        f"the arm, the steps of all arms taking turns; medians. Plain: {label(plain)}. Memory: "
        "peak of torch's allocator, with weights, gradients, optimiser state and activations.",
    )


def _row(backbone: str, step: str, seed: str, cost: StepCost) -> dict[str, str]:
    return {
        "net": NETS.get(backbone, backbone),
        "step": step,
        "seed": seed,
        "ms": f"{cost.median:.4g}",
        OVER_PLAIN: "",
        OVER_BOTH: "",
        "memory, MB": f"{cost.allocated_mb:.4g}",
        OVER_MEMORY: "",
    }


def _plain(
    plain: str, measured: Sequence[record.Measured], net: record.Network
) -> record.Measured | None:
    """The plain arm of the same backbone and seed, where it is measured."""
    wanted = (net.backbone, plain, net.seed)
    cells = {(m.network.backbone, m.network.variant, m.network.seed): m for m in measured}
    return cells.get(wanted)
