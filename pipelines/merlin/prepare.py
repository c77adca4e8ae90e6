"""The data sets: regular series with their gaps, the masks of the experiment, the splits.

Desk: real series that Python packages carry (data.lock). The paper's own four sets instead, where
`source` names one and `root` the folder that holds it.

What differs from the published code, on purpose. Statistics are those of the training span, over
recorded values alone; the published ones take all of the data, tests included. Whether a target was
recorded stands beside it, so that losses and metrics need no value that stands for "missing".
Splits share no step; the published windows overlap where one split ends and the next begins.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from pipelines.merlin import gaps, layouts
from pipelines.merlin.data import DAY, MANIFEST, MASKS, SERIES, SPLITS
from pipelines.merlin.datasets import SOURCES, Record
from pipelines.merlin.masks import Mask, Masks, draw
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import write_bytes, write_json
from stages.prepare import datalock, pypi

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

Share = Annotated[float, Field(gt=0, lt=1)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Shares(core.Params):
    """How the time of a series is dealt out, in this order."""

    train: Share
    valid: Share
    test: Share

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        if abs(self.train + self.valid + self.test - 1) > 1e-9:
            raise ValueError("train, valid and test must add up to 1")
        return self


class Dataset(core.Params):
    """
    Attributes:
        source: a series that a package carries, or the layout of the folder `root`.
        root: folder of a published set, best given relative to the project; null for packages.
        shares: of the splits.
        train_steps: only so many of the training span's last steps are used; null: all of them.
        until: a day such as 2013-10-01: what was recorded before it, local time; null: all. A set
            that grows is frozen so, and a scheduled run moves the day on.
        statistics: normalise each sensor by its own, or all by those of all sensors together.
    """

    source: Literal[
        "weather", "power", "beijing", "appliances", "metr_la", "pems04", "china_aqi", "global_wind"
    ]
    root: str | None
    shares: Shares
    train_steps: Annotated[int, Field(ge=2)] | None
    until: str | None
    statistics: Literal["sensor", "global"]

    @field_validator("until")
    @classmethod
    def _day(cls, text: str | None) -> str | None:
        if text is not None:
            date.fromisoformat(text)
        return text

    @model_validator(mode="after")
    def _root(self) -> Dataset:
        if (self.root is None) != (self.source in SOURCES):
            need = "must be null" if self.source in SOURCES else "must name its folder"
            raise ValueError(f"with source '{self.source}', root {need}")
        return self


class Params(core.Params):
    """
    Attributes:
        history, horizon: steps that are read, and steps that are forecast.
        scale: `zscore` makes a hole, 0, the mean; `minmax`, as published, makes it the minimum.
        datasets: name -> what it is.
    """

    history: Steps
    horizon: Steps
    scale: Literal["zscore", "minmax"]
    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)]
    masks: Masks


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Make the data sets.

    Raises:
        UserError: the data are not there, or not as expected; the message says how to get them.
    """
    wanted = {SOURCES[d.source].package for d in params.datasets.values() if d.source in SOURCES}
    lock = datalock.read(job.root).of(paper=job.paper, index="pypi") if wanted else {}
    lacking = sorted(wanted - set(lock))
    if lacking:
        raise UserError(f"{datalock.NAME} does not give {', '.join(lacking)} to '{job.paper}'")
    archives = pypi.fetch(job.root, {name: lock[name] for name in sorted(wanted)})
    shown = []
    with job.progress(len(params.datasets), "reading series") as bar:
        for name, dataset in sorted(params.datasets.items()):
            record, stated = _record(dataset, archives, lock, job.root)
            record = before(record, dataset.until, name)
            masks = draw(params.masks, *record.values.shape, name)
            manifest = _write(params, name, record, masks, stated, out / name)
            shown.append((manifest, np.isfinite(record.values), masks))
            digest = hashlib.sha256((out / name / MANIFEST).read_bytes()).hexdigest()
            job.track.dataset(manifest["title"], digest, stated["from"])
            bar.advance(note=name)
    gaps.show(out, shown, params.history)


def _record(
    dataset: Dataset, archives: dict[str, Path], lock: dict[str, datalock.Package], root: Path
) -> tuple[Record, dict[str, str]]:
    """The series, and where it comes from."""
    if dataset.source in SOURCES:
        source = SOURCES[dataset.source]
        package = lock[source.package]
        if source.file not in package.take:
            raise UserError(f"{datalock.NAME} does not list '{source.file}' of {source.package}")
        record = source.read(pypi.member(archives[source.package], source.file))
        return record, {
            "title": source.title,
            "author": source.author,
            "origin": source.origin,
            "licence": source.licence,
            "from": f"{source.package} {package.version}, {source.file}",
            "sha256 of its source": package.sha256,
        }
    layout = layouts.LAYOUTS[dataset.source]
    path = layouts.find(root / str(dataset.root), layout)
    return layouts.read(path, layout), {
        "title": layout.title,
        "author": "its publisher",
        "origin": "a folder of the user's",
        "licence": "that of its publisher; the file does not carry it",
        "from": f"{dataset.root}/{path.name}",
        "sha256 of its source": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def before(record: Record, until: str | None, name: str) -> Record:
    """What was recorded before the day `until`; all of it where that is None.

    Raises:
        UserError: the series does not say when it begins, or does so later.
    """
    if until is None:
        return record
    where = f"params.yaml: merlin.prepare.datasets.{name}.until is {until}"
    if record.start is None:
        raise UserError(f"{where}, but the series does not say when it begins; set it to null")
    span = datetime.combine(date.fromisoformat(until), time()) - record.start
    steps = -(-span // timedelta(minutes=record.step_minutes))
    if steps < 1:
        raise UserError(f"{where}, but the series begins at {record.start}; take a later day")
    return replace(record, values=record.values[:steps])


def _write(
    params: Params,
    name: str,
    record: Record,
    masks: dict[str, Mask],
    stated: dict[str, str],
    out: Path,
) -> dict[str, Any]:
    from safetensors.numpy import save

    dataset = params.datasets[name]
    bounds = split(len(record.values), dataset.shares, dataset.train_steps)
    span = params.history + params.horizon
    for part, (low, high) in bounds.items():
        if high - low < span:
            raise UserError(
                f"params.yaml: '{part}' of '{name}' has {high - low} steps, and a window takes "
                f"{span}; change merlin.prepare.datasets.{name}"
            )
    there = np.isfinite(record.values)
    mixed = len({unit for _, unit in record.sensors}) > 1
    if mixed and dataset.statistics == "global":
        raise UserError(
            f"params.yaml: merlin.prepare.datasets.{name}.statistics is 'global', but its sensors "
            "measure in different units; 'sensor' is what fits"
        )
    train = record.values[slice(*bounds["train"])]
    sensors = [
        {"name": label, "unit": unit, **numbers}
        for (label, unit), numbers in zip(
            record.sensors, statistics(train, params.scale, dataset.statistics, mixed), strict=True
        )
    ]
    out.mkdir(parents=True)
    # In rows: safetensors writes an array's memory as it lies, and pandas' lie in columns.
    values = np.where(there, record.values, 0.0).astype("<f4", order="C")
    observed = there.astype(np.uint8, order="C")
    write_bytes(out / SERIES, save({"values": values, "observed": observed}))
    write_bytes(out / MASKS, save(masks))
    manifest = {
        "name": name,
        **stated,
        "history": params.history,
        "horizon": params.horizon,
        "start": record.start.isoformat() if record.start else None,
        "until": dataset.until,
        "step_minutes": record.step_minutes,
        "steps_per_day": max(1, DAY // record.step_minutes),
        "scale": params.scale,
        "statistics": f"of the training span's recorded values, {dataset.statistics}",
        "unit": "σ" if mixed else record.sensors[0][1],
        "sensors": sensors,
        "bounds": {part: list(bound) for part, bound in bounds.items()},
        "counts": {
            "steps": len(values),
            "sensors": len(sensors),
            "missing": int((~there).sum()),
            **{f"missing in {k}": int((~there[slice(*b)]).sum()) for k, b in bounds.items()},
        },
        "masks": {key: round(1 - float(mask.mean()), 6) for key, mask in masks.items()},
        "sha256": {f: hashlib.sha256((out / f).read_bytes()).hexdigest() for f in (SERIES, MASKS)},
    }
    write_json(out / MANIFEST, manifest)
    return manifest


def split(length: int, shares: Shares, train_steps: int | None) -> dict[str, tuple[int, int]]:
    """First step and the step after the last of train, valid and test, in the order of time."""
    first, second = int(length * shares.train), int(length * (shares.train + shares.valid))
    begin = 0 if train_steps is None else max(0, first - train_steps)
    return dict(zip(SPLITS, ((begin, first), (first, second), (second, length)), strict=True))


def statistics(
    train: NDArray[np.float64],
    scale: Literal["zscore", "minmax"],
    whose: Literal["sensor", "global"],
    mixed: bool,
) -> list[dict[str, float]]:
    """What each sensor is normalised by, and what its errors are measured in.

    Args:
        train: (T, N) the training span, NaN where nothing was recorded.
        mixed: the sensors differ in their units.

    Returns:
        For each sensor its own `mean`, `std`, `low`, `high` and share `recorded`; a value v is
        normalised to (v - `offset`) / `scale`; `error_scale` is `std` for mixed units, else 1. A
        sensor without any recorded value has mean 0; one that never changes has scale 1.
    """
    pooled = _moments(train[np.isfinite(train)]) if whose == "global" else None
    found = []
    for column in train.T:
        there = column[np.isfinite(column)]
        own = _moments(there)
        mean, std, low, high = pooled or own
        offset, size = (mean, std) if scale == "zscore" else (low, high - low)
        found.append({
            **dict(zip(("mean", "std", "low", "high"), own, strict=True)),
            "recorded": round(len(there) / len(column), 6),
            "offset": offset,
            "scale": size if size > 0 else 1.0,
            "error_scale": own[1] if mixed and own[1] > 0 else 1.0,
        })  # fmt: skip
    return found


def _moments(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Mean, standard deviation, least and greatest."""
    if not len(values):
        return 0.0, 0.0, 0.0, 0.0
    found = values.mean(), values.std(), values.min(), values.max()
    # Nine digits: the last bits of a sum depend on how it is split, and nothing rests on them.
    mean, std, low, high = (float(f"{x:.9g}") for x in found)
    return mean, std, low, high
