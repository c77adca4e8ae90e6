"""The data set: fields over time, from which the first frames are given and the next forecast.

Desk: two-dimensional turbulence simulated here, by the paper's own route to its Navier-Stokes set
(see `navier_stokes.py` for what differs). A published set instead, where `published:` names one.
Splits are by trajectory: windows of one trajectory never stand on two sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, model_validator
from safetensors.torch import save
from torch import Tensor

from pipelines.sdkd import exhibits, layouts
from pipelines.sdkd.accuracy import accuracy
from pipelines.sdkd.data import KEY, MANIFEST, SPLITS, Fields, starts
from pipelines.sdkd.navier_stokes import Recipe
from pipelines.sdkd.published import Published
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
        if len(params.published.variables) > 1:
            fields, about["scaled_by"] = alike(fields, params.published.variables)
            about["unit"] = "standard deviations of each variable"
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
        UserError: a trajectory is too short for one window, all values of a channel are the same,
            or a test frame is zero everywhere.
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
    _without_empty_frames(fields["test"], params.history)
    mean, std = moments(train)
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


def alike(
    fields: Mapping[str, Tensor], names: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Several variables, a channel each, in units of each one's own spread over the training set.

    Else the error of one in hundreds of kelvin would be all that a mean over channels shows.

    Returns:
        The fields, and by variable the mean that was taken off and what was divided by.
    """
    mean, std = moments(fields[SPLITS[0]])
    level, unit = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    told = {n: {"mean": m, "std": s} for n, m, s in zip(names, mean, std, strict=True)}
    return {split: (values - level) / unit for split, values in fields.items()}, told


def _without_empty_frames(test: Tensor, history: int) -> None:
    """Raise where a frame that may have to be forecast is zero everywhere.

    An error relative to it has no meaning; and after normalisation and back it would not be zero
    any more, but a rounding error, to which every forecast's error is immense.
    """
    empty = (test[:, history:] == 0).flatten(2).all(-1).nonzero().tolist()
    if empty:
        trajectory, frame = empty[0]
        raise UserError(
            f"frame {frame + history + 1} of test trajectory {trajectory + 1} is zero everywhere "
            f"({len(empty)} such frames in all): no relative error is defined for it; prepare data "
            "without such frames, or with an offset"
        )


def moments(fields: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of (N, T, C, H, W), in double precision.

    Trajectory by trajectory: a published set need not fit into memory twice.

    Raises:
        UserError: all values of a channel are the same.
    """
    count, over = len(fields), (0, 2, 3)
    mean = torch.stack([one.double().mean(over) for one in fields]).sum(0) / count
    apart = (one.double() - mean[:, None, None] for one in fields)
    square = torch.stack([one.square().mean(over) for one in apart]).sum(0) / count
    std = square.sqrt().tolist()
    if 0 in std:
        which = f" in channel {std.index(0) + 1}" if len(std) > 1 else ""
        raise UserError(f"all values of the training trajectories are the same{which}")
    return mean.tolist(), std
