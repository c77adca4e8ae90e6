"""The training loop of every paper: schedule, clipping, EMA, validation, checkpoints, resume.

Randomness is a pure function of (name, seed, step): before each step everything is seeded from
those three, so a run that was killed and resumed ends with the bytes of an undisturbed one.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from safetensors.torch import save
from torch import Tensor, nn

from stages.core.errors import UserError
from stages.core.files import write_bytes, write_text
from stages.core.params import Params
from stages.core.seeding import seed_all

CHECKPOINT_SECONDS = 5.0
"""Time between checkpoints; stretched so that saving takes at most 2 % of the time."""


class TrainSpec(Params):
    """How a network is trained. Lengths are in optimiser updates unless `epochs` is given."""

    steps: int | None = Field(ge=0)
    epochs: float | None = Field(gt=0)
    batch: int = Field(ge=1)
    optimizer: Literal["adam", "adamw", "sgd"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    schedule: Literal["constant", "cosine", "plateau"]
    warmup: int = Field(ge=0)
    plateau_patience: int = Field(ge=1)
    plateau_threshold: float = Field(ge=0, description="absolute, in units of the validation loss")
    clip: float | None = Field(gt=0)
    ema: float = Field(ge=0, lt=1)
    validate_every: int = Field(ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> TrainSpec:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs, and null for the other")
        return self

    def length(self, epoch_steps: int | None) -> int:
        """Updates in all; `epoch_steps` updates make an epoch."""
        if self.steps is not None:
            return self.steps
        if epoch_steps is None:
            raise UserError("'epochs' is set, but this training has no epoch; give 'steps'")
        return max(1, round((self.epochs or 0) * epoch_steps))


@dataclass(frozen=True)
class Fit:
    """What a training leaves.

    Attributes:
        best: state of the network with the lowest validation loss (of its EMA where there is one);
            the last state where nothing was validated.
        last: state after the last update.
        curve: one row per validation: step, train_loss, valid_loss, lr.
        steps: updates made.
    """

    best: dict[str, Tensor]
    last: dict[str, Tensor]
    best_step: int
    curve: list[dict[str, float]]
    steps: int


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    spec: TrainSpec,
    *,
    job: Any,
    name: str,
    seed: int,
    parameters: Iterable[nn.Parameter] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    snapshots: Sequence[int] = (),
    on_snapshot: Callable[[int, nn.Module], None] | None = None,
    epoch_steps: int | None = None,
    training: bool = True,
) -> Fit:
    """Train `model` in place; a run that was killed goes on from its last checkpoint.

    Args:
        loss: called as loss(model, step) for step 1, 2, …; draws its own batch from the step.
        parameters: what the optimiser changes; all parameters that need gradients by default.
        validate: mean loss on held-out data, lower is better; called without gradients.
        snapshots: updates after which `on_snapshot(step, model)` is called (0: before the first).
            It is called again for the same step after a resume, so it must be repeatable.
        training: the mode in which the loss is computed; False keeps dropout off.

    Raises:
        UserError: the loss, a gradient or the validation error is not finite.
    """
    steps = spec.length(epoch_steps)
    folder: Path = job.unit(name)
    run = _Run(model, spec, steps, parameters)
    run.load(folder / "state.pt")
    wanted = set(snapshots)
    if on_snapshot and 0 in wanted and run.step == 0:
        on_snapshot(0, model)
    saved, cost = time.monotonic(), 0.0
    with job.progress(steps - run.step, name) as bar:
        while run.step < steps:
            step = run.step + 1
            model.train(training)
            seed_all(name, seed, step)
            value = loss(model, step)
            _finite(float(value.detach()), "the loss", name, step)
            run.update(value, name, step)
            if validate and (step % spec.validate_every == 0 or step == steps):
                error = _validation(run.shown, validate, name, seed)
                _finite(error, "the validation error", name, step)
                row = run.validated(error)
                for key in ("train_loss", "valid_loss"):
                    job.track.metric(f"{name}/{key}", row[key], step=step, seed=seed)
            if on_snapshot and step in wanted:
                on_snapshot(step, run.shown)
            bar.advance(note=f"loss {run.smooth:.3f}")
            if time.monotonic() - saved > max(CHECKPOINT_SECONDS, 50 * cost) and step < steps:
                begun = time.monotonic()
                run.save(folder / "state.pt")
                saved = time.monotonic()
                cost = saved - begun
    run.save(folder / "state.pt")
    result = run.result()
    write_bytes(folder / "best.safetensors", save(result.best))
    write_bytes(folder / "last.safetensors", save(result.last))
    if result.curve:
        write_text(folder / "curve.csv", curve_csv(result.curve))
    return result


def curve_csv(curve: list[dict[str, float]]) -> str:
    """A learning curve as CSV text."""
    lines = [",".join(curve[0])]
    lines += [",".join(f"{value:.8g}" for value in row.values()) for row in curve]
    return "\n".join(lines) + "\n"


def _validation(
    model: nn.Module, validate: Callable[[nn.Module], float], name: str, seed: int
) -> float:
    model.eval()
    seed_all(name, seed, "validation")
    with torch.no_grad():
        return float(validate(model))


def _finite(value: float, what: str, name: str, step: int) -> None:
    if not math.isfinite(value):
        raise UserError(
            f"{name}: {what} is {value} at update {step}; "
            "lower the learning rate or the clipping threshold in params.yaml"
        )


class _Run:
    """The state of a training: everything that a resume must bring back."""

    def __init__(
        self,
        model: nn.Module,
        spec: TrainSpec,
        steps: int,
        parameters: Iterable[nn.Parameter] | None,
    ) -> None:
        self.model, self.spec = model, spec
        chosen = model.parameters() if parameters is None else parameters
        self.parameters = [p for p in chosen if p.requires_grad]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        self.optimizer = kind[spec.optimizer](
            self.parameters, lr=spec.lr, weight_decay=spec.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda done: _factor(spec, steps, done)
        )
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            factor=0.5,
            patience=spec.plateau_patience,
            threshold=spec.plateau_threshold,
            threshold_mode="abs",
        )
        self.ema = None
        if spec.ema > 0:
            from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

            self.ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(spec.ema))
        self.step, self.best_step, self.best_loss = 0, 0, math.inf
        self.best: dict[str, Tensor] | None = None
        self.curve: list[dict[str, float]] = []
        self.smooth = math.nan
        self.scale = 1.0

    @property
    def shown(self) -> nn.Module:
        """The network that is validated and kept: the average where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def update(self, value: Tensor, name: str, step: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        if self.spec.clip is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.spec.clip)
            if not math.isfinite(float(norm)):
                raise UserError(f"{name}: a gradient is not finite at update {step}")
        self.optimizer.step()
        self.schedule.step()
        if self.spec.schedule == "plateau":
            for group in self.optimizer.param_groups:
                group["lr"] *= self.scale
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.step = step
        current = float(value.detach())
        self.smooth = current if math.isnan(self.smooth) else 0.95 * self.smooth + 0.05 * current

    def validated(self, loss: float) -> dict[str, float]:
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            self.best = _copy(self.shown)
        row = {
            "step": self.step,
            "train_loss": self.smooth,
            "valid_loss": loss,
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        self.curve.append(row)
        if self.spec.schedule == "plateau":
            before = self.optimizer.param_groups[0]["lr"]
            self.plateau.step(loss)
            self.scale *= self.optimizer.param_groups[0]["lr"] / before
        return row

    def save(self, path: Path) -> None:
        buffer = io.BytesIO()
        torch.save(
            {
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict() if self.ema is not None else None,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "plateau": self.plateau.state_dict(),
                "best": self.best,
                "numbers": [self.step, self.best_step, self.best_loss, self.smooth, self.scale],
                "curve": self.curve,
            },
            buffer,
        )
        write_bytes(path, buffer.getvalue())

    def load(self, path: Path) -> None:
        if not path.is_file():
            return
        place = next(iter(self.model.parameters())).device
        state = torch.load(path, weights_only=True, map_location=place)
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.plateau.load_state_dict(state["plateau"])
        self.best, self.curve = state["best"], state["curve"]
        self.step, self.best_step, self.best_loss, self.smooth, self.scale = state["numbers"]

    def result(self) -> Fit:
        last = _copy(self.shown)
        best, best_step = (last, self.step) if self.best is None else (self.best, self.best_step)
        return Fit(best, last, best_step, self.curve, self.step)


def _factor(spec: TrainSpec, steps: int, done: int) -> float:
    """Share of the learning rate for update `done` + 1 (plateau: the scheduler halves it too)."""
    if spec.warmup and done < spec.warmup:
        return (done + 1) / spec.warmup
    if spec.schedule != "cosine":
        return 1.0
    span = max(1, steps - spec.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - spec.warmup) / span)))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone().contiguous() for k, v in sorted(model.state_dict().items())}
