"""Train one forecaster for all missing rates, by one arm's parts of Merlin's loss.

Merlin (arXiv 2506.12459): a student of the teacher's architecture sees a window under several
missing rates at once and is drawn to the teacher's hidden representation and forecast for the
complete window, and to equal codes under all rates. Every arm sees the same windows and masks for
the same seed, starts from the same weights, makes as many updates, and keeps the state that is
best on the same validation error.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, model_validator
from safetensors.torch import save
from torch import Tensor

from pipelines.merlin.arms import Arm, Weights
from pipelines.merlin.data import Series
from pipelines.merlin.impute import means
from pipelines.merlin.model import Forecaster, build, load, without_head
from pipelines.merlin.training import Lesson
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import write_bytes, write_json, write_text
from stages.core.seeding import seed_all
from stages.teach.loop import TrainSpec, curve_csv, fit

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

ALL = "all"
"""The name of an arm's one model; per_rate names each by its mask instead."""


class Params(core.Params):
    """
    Attributes:
        weights: of the loss's parts.
        epoch_updates: updates after which an epoch of the decay ends; null: a pass over all
            training windows.
        valid_windows: how many validation windows count, evenly spread.
        code: length of a window's code in the contrastive loss.
        train: how each backbone is trained.
    """

    weights: Weights
    epoch_updates: int | None = Field(ge=1)
    valid_windows: int = Field(ge=2)
    code: int = Field(ge=1)
    train: dict[str, TrainSpec]
    variant: Arm

    @model_validator(mode="after")
    def _trained(self) -> Params:
        lacking = sorted(set(self.variant.backbones) - self.train.keys())
        if lacking:
            raise ValueError(f"train does not say how to train {', '.join(lacking)}")
        return self


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Train the arm on each of its data sets and backbones, once per seed.

    Raises:
        UserError: there is no teacher for one of them.
    """
    _all_taught(params.variant, inputs["teach"])
    for dataset in params.variant.datasets:
        series = Series.load(inputs["prepare"], dataset)
        views = series.see(inputs["calibrate"])
        if params.variant.contrast and len(views) + params.variant.clean < 2:
            raise UserError(
                f"params.yaml: 'merlin.calibrate.views' has {', '.join(views)} alone, but the "
                f"contrastive loss compares views; name another, or set 'contrast: false'"
            )
        for backbone in params.variant.backbones:
            teacher = load(inputs["teach"] / dataset / backbone).to(job.device)
            teacher.requires_grad_(False)
            for seed in job.seeds:
                # Written last, the training's record also says that this unit is done.
                unit = job.unit(f"{dataset}-{backbone}-seed{seed}") / "result"
                if not (unit / "training.json").is_file():
                    _unit(params, job, series, views, teacher, seed, unit)
                # A kill can leave a half-written hidden file behind.
                halves = shutil.ignore_patterns(".*")
                shutil.copytree(unit, out / dataset / backbone / f"seed{seed}", ignore=halves)


def _all_taught(arm: Arm, teach: Path) -> None:
    """Refuse an arm that asks for a teacher that is not there, before anything is trained."""
    there = sorted(path.parent.relative_to(teach) for path in teach.glob("*/*/config.json"))
    wanted = [Path(dataset) / backbone for dataset in arm.datasets for backbone in arm.backbones]
    lacking = [path.as_posix() for path in wanted if path not in there]
    if lacking:
        taught = ", ".join(path.as_posix() for path in there) or "nothing"
        raise UserError(
            f"params.yaml, merlin.distill.variants: no teacher of {', '.join(lacking)}; teach "
            f"trained {taught}. Change the arm's datasets or backbones, or add them to teach's."
        )


def student(params: Params, teacher: Forecaster, dataset: str, seed: int) -> Forecaster:
    """The student before its first update, on the CPU: the same for all arms of a seed.

    Only a mask channel changes the shape of its first layer, and so what is drawn.
    """
    arm, config = params.variant, teacher.config
    code = params.code if arm.contrast else 0
    seed_all("distill", dataset, config["name"], seed)
    model = build({**config, "mask": arm.input == "mask", "code": code})
    if arm.init != "fresh":
        model.body.load_state_dict(teacher.body.state_dict())
    return model


def _unit(
    params: Params, job: Job, series: Series, views: list[str], teacher: Forecaster, seed: int,
    unit: Path,
) -> None:  # fmt: skip
    """Train the arm's one model, or its model for each view, into `unit`."""
    arm, spec = params.variant, params.train[teacher.config["name"]]
    lesson = Lesson(
        series=series,
        views=views,
        arm=arm,
        weights=arm.weights or params.weights,
        teacher=teacher if arm.taught else None,
        seed=seed,
        batch=spec.batch,
        epoch_steps=params.epoch_updates or series.epoch_steps(spec.batch),
        valid_windows=params.valid_windows,
        device=job.device,
    )
    models = {}
    for name in views if arm.per_rate else [ALL]:
        own = replace(lesson, views=[name]) if arm.per_rate else lesson
        model = student(params, teacher, series.name, seed).to(job.device)
        models[name] = _model(model, own, spec, job, unit, name)
    record = {
        "arm": arm.model_dump(exclude={"backbones", "datasets", "weights"}),
        "weights": lesson.weights.model_dump(),
        "code": params.code if arm.contrast else 0,
        "views": views,
        "rest": means(series).tolist(),
        "models": models,
    }
    write_json(unit / "training.json", record)


def _model(
    model: Forecaster, lesson: Lesson, spec: TrainSpec, job: Job, unit: Path, name: str
) -> dict[str, Any]:
    """Train one model, keep its best state without its head, and say how it went."""
    tail = "" if name == ALL else f"-{name}"
    file, steps, best = f"model{tail}.safetensors", 0, 0
    if lesson.arm.init != "frozen":
        result = fit(
            model,
            lesson.loss,
            spec,
            job=job,
            name=f"{lesson.series.name}-{model.config['name']}{tail}-seed{lesson.seed}",
            seed=lesson.seed,
            validate=lesson.validate,
            epoch_steps=lesson.series.epoch_steps(spec.batch),
        )
        model.load_state_dict(result.best)
        write_text(unit / f"curve{tail}.csv", curve_csv(result.curve))
        steps, best = result.steps, result.best_step
    model.eval()
    config, state = without_head(model.config, model.state_dict())
    write_bytes(unit / file, save(_plain(state)))
    write_json(unit / "config.json", config)
    with torch.no_grad():
        valid = lesson.validate(model)
        likeness = lesson.likeness(model) if len(lesson.views) > 1 else {}
    about = {"file": file, "steps": steps, "best_step": best, "valid_loss": valid}
    return {**about, "likeness": likeness}


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu().contiguous() for name, value in sorted(state.items())}
