"""The data set: fields over time, from which the first frames are given and the next forecast.

Desk: two-dimensional turbulence simulated here, by the paper's own route to its Navier-Stokes set
(see `navier_stokes.py` for what differs). A published set instead, where `published:` names one.
Splits are by trajectory: windows of one trajectory never stand on two sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, model_validator
from safetensors.torch import save
from torch import Tensor

from pipelines.sdkd import exhibits, layouts
from pipelines.sdkd.accuracy import accuracy
from pipelines.sdkd.data import KEY, MANIFEST, SPLITS, Fields, starts
from pipelines.sdkd.layouts import Published
from pipelines.sdkd.navier_stokes import Recipe
from pipelines.sdkd.simulate import simulate
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import write_bytes, write_json
from stages.core.results import write_metrics

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Counts(core.Params):
    """Trajectories in each split; see `layouts.py` for what counts as one in a published set."""

    train: int = Field(ge=1)
    valid: int = Field(ge=1)
    test: int = Field(ge=1)


class Params(core.Params):
    """
    Attributes:
        published: a published set; null simulates by `recipe`, which counts for nothing else.
        recipe: of the simulation.
        trajectories: in each split.
        seed: of the fields at time 0.
        batch: trajectories simulated at once; decides the speed alone.
        workers: processes that simulate, of one thread each; decides the speed alone.
        history, horizon: frames given and frames to forecast.
        stride: frames from one window of a long trajectory to the next.
    """

    published: Published | None
    recipe: Recipe
    trajectories: Counts
    seed: int = Field(ge=0)
    batch: int = Field(ge=1)
    workers: int = Field(ge=1, le=64)
    history: int = Field(ge=1)
    horizon: int = Field(ge=1)
    stride: int = Field(ge=1)

    @model_validator(mode="after")
    def _long_enough(self) -> Params:
        if self.published is None and self.recipe.frames < self.history + self.horizon:
            raise ValueError(
                f"recipe.frames is {self.recipe.frames}, fewer than history + horizon, "
                f"{self.history + self.horizon}"
            )
        return self


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Make the data set, and show what it looks like and how sure it is.

    Raises:
        UserError: the simulation breaks down, or a published set is not as expected.
    """
    if params.published is None:
        counts = params.trajectories.model_dump()
        made = simulate(params.recipe, counts, params.seed, params.batch, params.workers, job)
        fields = {split: values[:, :, None] for split, values in made.items()}
        about: dict[str, Any] = {
            "dataset": "Navier-Stokes",
            "source": "simulated",
            "recipe": params.recipe.model_dump(),
            "seed": params.seed,
            "licence": "made here: this project's own",
            "unit": "vorticity",
        }
    else:
        root = job.root / params.published.root  # an absolute path stays as it is
        found = layouts.find(root, params.published, params.trajectories.model_dump())
        fields = {split: torch.from_numpy(found.fields[split]) for split in SPLITS}
        about = {
            "dataset": found.title,
            "source": params.published.layout,
            "root": params.published.root,
            "licence": "that of its publisher; the files do not carry it",
            "unit": found.unit,
        }
    manifest = about | described(fields, params)
    for split, values in fields.items():
        write_bytes(out / f"{split}.safetensors", save({KEY: values.contiguous()}))
    write_json(out / MANIFEST, manifest)
    prepared = Fields.load(out)
    metrics = exhibits.show(prepared, out)
    if params.published is None:
        metrics["accuracy"] = accuracy(params.recipe, params.seed, out)
    write_metrics(out / "metrics.json", metrics)
    digest = hashlib.sha256("".join(manifest["checksums"].values()).encode()).hexdigest()
    job.track.dataset(manifest["dataset"], digest, about["source"])


def described(fields: Mapping[str, Tensor], params: Params) -> dict[str, Any]:
    """What the manifest says of the fields (N, T, C, H, W) of each split.

    Raises:
        UserError: a trajectory is too short for one window, or all values are the same.
    """
    train = fields[SPLITS[0]]
    frames, channels, *size = train.shape[1:]
    length = params.history + params.horizon
    short = [split for split, values in fields.items() if values.shape[1] < length]
    if short:
        raise UserError(
            f"the trajectories for {', '.join(short)} have {fields[short[0]].shape[1]} frames, "
            f"fewer than history + horizon, {length} (sdkd.prepare in params.yaml)"
        )
    mean, std = moments(train)
    if std == 0:
        raise UserError("all values of the training trajectories are the same")
    return {
        "history": params.history,
        "horizon": params.horizon,
        "stride": params.stride,
        "frames": frames,
        "channels": channels,
        "size": size,
        "mean": mean,
        "std": std,
        "low": float(train.min()),
        "high": float(train.max()),
        "counts": {
            split: {
                "trajectories": len(values),
                "windows": len(starts(len(values), values.shape[1], length, params.stride)),
            }
            for split, values in fields.items()
        },
        "checksums": {
            split: hashlib.sha256(values.contiguous().numpy()).hexdigest()
            for split, values in fields.items()
        },
    }


def moments(fields: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all values of (N, …), in double precision.

    Trajectory by trajectory: a published set need not fit into memory twice.
    """
    mean = sum(float(one.double().mean()) for one in fields) / len(fields)
    square = sum(float((one.double() - mean).square().mean()) for one in fields) / len(fields)
    return mean, square**0.5
