"""Train the teachers: forecasters on complete history, one a data set and backbone.

Published setting (Merlin's released code): masked MAE on normalised values, Adam 2e-4 with weight
decay 1e-4, gradients clipped at 5, best on validation kept; the learning rate is halved at fixed
epochs there and follows a cosine here. The released loops never call `zero_grad`, so that
gradients pile up for the whole run; the shared loop here clears them in each step.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator
from safetensors.torch import save
from torch import Tensor, nn

from pipelines.merlin.arms import Name
from pipelines.merlin.configs import checked
from pipelines.merlin.data import COMPLETE, Series
from pipelines.merlin.losses import masked_mae
from pipelines.merlin.model import build
from pipelines.merlin.names import NETS
from pipelines.merlin.training import error, spread
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import write_bytes, write_json, write_text
from stages.core.seeding import seed_all
from stages.teach import curves
from stages.teach.loop import Fit, TrainSpec, curve_csv, fit

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


CURVES = "curves"


class Params(core.Params):
    """`backbones`: each network's own numbers, by name; `train`: how each is trained;
    `valid_windows`: how many validation windows count, evenly spread."""

    seed: int = Field(ge=0)
    datasets: Annotated[list[Name], Field(min_length=1)]
    backbones: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    train: dict[str, TrainSpec]
    valid_windows: int = Field(ge=1)

    @model_validator(mode="after")
    def _known(self) -> Params:
        checked(self.backbones)
        if self.train.keys() != self.backbones.keys():
            raise ValueError(
                f"train has {', '.join(sorted(self.train))}, "
                f"backbones has {', '.join(sorted(self.backbones))}: both need the same networks"
            )
        return self


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Train one teacher per data set and backbone and keep the one best on validation data.

    Raises:
        UserError: the numbers of a network do not go together.
    """
    every = {dataset: Series.load(inputs["prepare"], dataset) for dataset in params.datasets}
    for series in every.values():
        for backbone in params.backbones:
            _refuse(params, series, backbone)
    learnt: dict[str, list[dict[str, float]]] = {}
    for dataset, series in every.items():
        for backbone in params.backbones:
            config = config_of(params, series, backbone)
            result = _train(params, series, config, job)
            folder = out / dataset / backbone
            write_bytes(folder / "model.safetensors", save(result.best))
            write_json(folder / "config.json", config)
            best = min(row["valid_loss"] for row in result.curve)
            about = {"steps": result.steps, "best_step": result.best_step, "valid_loss": best}
            write_json(folder / "training.json", about)
            # All in one folder, which dvc.yaml can plot whatever the sets are called.
            write_text(out / CURVES / f"{dataset}-{backbone}.csv", curve_csv(result.curve))
            learnt[f"{NETS.get(backbone, backbone)}, {dataset}"] = result.curve
    curves.show(
        out,
        learnt,
        ylabel="masked MAE, normalised",
        title="Learning curves of the teachers",
        caption="Complete history; recorded targets alone. Training: smoothed, with dropout.",
    )


def config_of(params: Params, series: Series, backbone: str) -> dict[str, Any]:
    """The config of a teacher: the backbone's numbers and what the data set fixes."""
    return {
        **params.backbones[backbone],
        "name": backbone,
        "sensors": series.sensors,
        "history": series.history,
        "horizon": series.horizon,
        "steps_per_day": series.steps_per_day,
        "mask": False,
        "code": 0,
    }


def _refuse(params: Params, series: Series, backbone: str) -> None:
    """Build the network once, before anything is trained."""
    try:
        build(config_of(params, series, backbone))
    except ValueError as error:
        raise UserError(f"params.yaml, merlin.teach.backbones.{backbone}: {error}") from None


def _train(params: Params, series: Series, config: dict[str, Any], job: Job) -> Fit:
    backbone, name = config["name"], f"{series.name}-{config['name']}"
    spec = params.train[backbone]
    seed_all("teach", series.name, backbone, params.seed)
    model = build(config).to(job.device)
    starts = spread(series.starts("valid"), params.valid_windows)

    def loss(net: nn.Module, step: int) -> Tensor:
        batch = series.batch(params.seed, step, spec.batch)
        window = series.window(batch).to(job.device)
        y = net(window.x, window.tod, window.dow)[0]
        return masked_mae(y, window.y, window.label)

    def validate(net: nn.Module) -> float:
        return error(net, series, starts, COMPLETE, "zeros", job.device)

    return fit(
        model,
        loss,
        spec,
        job=job,
        name=name,
        seed=params.seed,
        validate=validate,
        epoch_steps=series.epoch_steps(spec.batch),
    )
