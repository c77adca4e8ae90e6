"""Multivariate series as the other stages see them, whatever they were prepared from.

A window is `history` steps that a network reads and `horizon` steps that it forecasts. Two things
can hide a value of the history: a gap in the record (`observed`, which no arm can lift) and a mask
of the experiment (`kept`). Targets are never filled in: `label` says which of them were recorded,
and losses and metrics count those alone, so that a true zero is a value like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.seeding import numpy_generator

MANIFEST, SERIES, MASKS = "manifest.json", "series.safetensors", "masks.safetensors"
VIEWS, VIEW_MASKS = "views.json", "views.safetensors"
COMPLETE = "complete"
"""The mask key that hides nothing: the record as it is, with its own gaps."""
SPLITS = ("train", "valid", "test")
DAY = 24 * 60  # minutes

Starts = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """A batch of windows, B of them, of N sensors; P steps of history, Q of horizon.

    Attributes:
        x: (B, P, N) normalised, 0 where nothing was recorded.
        observed: (B, P, N) which values of `x` were recorded.
        tod: (B, P) int64, step of the day, 0 to steps_per_day - 1.
        dow: (B, P) int64, day of the week, 0 (Monday) to 6.
        y: (B, Q, N) normalised, 0 where nothing was recorded.
        label: (B, Q, N) which values of `y` were recorded: the others are no targets.
    """

    x: Tensor
    observed: Tensor
    tod: Tensor
    dow: Tensor
    y: Tensor
    label: Tensor

    def to(self, device: torch.device) -> Window:
        return Window(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Series:
    """What `prepare` made of one data set.

    Attributes:
        name: the data set, as params.yaml calls it.
        sensors: N.
        history, horizon: P and Q, in steps.
        steps_per_day: rows of a time-of-day embedding.
        unit: of the errors: the sensors' own, or "σ" where these differ (see `error_scale`).
        error_scale: (N,) what an error in raw units is divided by before it is averaged: 1, or
            each sensor's standard deviation in training.
        bounds: split -> first step and the step after its last.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.name: str = manifest["name"]
        self.history: int = manifest["history"]
        self.horizon: int = manifest["horizon"]
        self.steps_per_day: int = manifest["steps_per_day"]
        self.unit: str = manifest["unit"]
        self.bounds: dict[str, tuple[int, int]] = {
            split: (low, high) for split, (low, high) in manifest["bounds"].items()
        }
        self.sensor_names: list[str] = [sensor["name"] for sensor in manifest["sensors"]]
        self.sensors = len(self.sensor_names)
        self.offset, self.scale, self.error_scale = (
            torch.tensor([sensor[key] for sensor in manifest["sensors"]], dtype=torch.float64)
            for key in ("offset", "scale", "error_scale")
        )
        stored = load_file(folder / SERIES)
        self.observed = stored["observed"].bool()
        normal = (stored["values"].double() - self.offset) / self.scale
        self.values = torch.where(self.observed, normal, 0.0).float()
        self.tod, self.dow = _calendar(manifest, len(self.values))
        with safe_open(folder / MASKS, "pt") as file:
            self.keys: list[str] = sorted(file.keys())
        self._masks: dict[str, Tensor] = {}
        self._views: dict[str, Tensor] = {}
        self._starts: dict[str, Starts] = {}
        self._order: tuple[tuple[int, int], Starts] | None = None

    @staticmethod
    def load(folder: Path, dataset: str) -> Series:
        """Open one data set of `prepare`'s output.

        Args:
            folder: of the stage.
            dataset: its name in params.yaml.

        Raises:
            UserError: it is not there.
        """
        place = folder / dataset
        if not (place / MANIFEST).is_file():
            raise UserError(
                f"prepare made no data set '{dataset}'; there are {', '.join(datasets(folder))}"
            )
        return Series(place, read_json(place / MANIFEST))

    def starts(self, split: str) -> Starts:
        """First steps of all windows of a split, rising.

        A window lies wholly inside its split, so that no step is in two splits. Windows without
        any recorded target are left out, as they can neither teach nor be scored.
        """
        if split not in self._starts:
            low, high = self.bounds[split]
            first = np.arange(low, max(low, high - self.history - self.horizon + 1), dtype=np.int64)
            some = np.concatenate([[0], self.observed.any(1).numpy().cumsum()])
            begin = first + self.history
            self._starts[split] = first[some[begin + self.horizon] > some[begin]]
        return self._starts[split]

    def window(self, starts: Starts) -> Window:
        """The windows that begin at `starts` (B,)."""
        past = _steps(starts, 0, self.history)
        ahead = _steps(starts, self.history, self.horizon)
        return Window(
            self.values[past], self.observed[past], self.tod[past], self.dow[past],
            self.values[ahead], self.observed[ahead],
        )  # fmt: skip

    def kept(self, key: str, starts: Starts) -> Tensor:
        """What a mask leaves of the windows' histories: (B, P, N) bool, True = kept.

        The mask is one draw over the whole series, cut like the data: a step has the same fate in
        every window that sees it, and in every epoch.

        Raises:
            UserError: there is no such mask.
        """
        if key == COMPLETE:
            return torch.ones(len(starts), self.history, self.sensors, dtype=torch.bool)
        if key in self._views:
            return self._views[key][_steps(starts - self.taught[0], 0, self.history)]
        return self.mask(key)[_steps(starts, 0, self.history)]

    def mask(self, key: str) -> Tensor:
        """A mask over the whole series, (L, N) bool, True = kept."""
        if key not in self._masks:
            if key not in self.keys:
                raise UserError(f"{self.name} has no mask '{key}'; it has {', '.join(self.keys)}")
            with safe_open(self.folder / MASKS, "pt") as file:
                self._masks[key] = file.get_tensor(key).bool()
        return self._masks[key]

    @property
    def taught(self) -> tuple[int, int]:
        """First step of training and the step after the last of validation: all that a training
        may see."""
        return self.bounds["train"][0], self.bounds["valid"][1]

    def see(self, folder: Path) -> list[str]:
        """Take the views that `calibrate` stored: `kept` gives them from now on.

        They cover the training and the validation span alone; a window after them is an IndexError.

        Args:
            folder: of the stage.

        Returns:
            Their names, in the order of params.yaml.
        """
        place = folder / self.name
        self._views = {key: mask.bool() for key, mask in load_file(place / VIEW_MASKS).items()}
        names: list[str] = read_json(place / VIEWS)
        return names

    def raw(self, values: Tensor) -> Tensor:
        """Normalised values (..., N) in the sensors' own units, float64."""
        return values.double() * self.scale.to(values.device) + self.offset.to(values.device)

    def epoch_steps(self, size: int) -> int:
        """Batches of `size` windows that make an epoch; what is left over is left out."""
        return max(1, len(self.starts("train")) // size)

    def batch(self, seed: int, step: int, size: int) -> Starts:
        """Starts of the training windows of update `step` (from 1), a pure function of its
        arguments: each epoch is a new permutation of all windows."""
        starts = self.starts("train")
        epoch, place = divmod(step - 1, self.epoch_steps(size))
        if self._order is None or self._order[0] != (seed, epoch):
            rng = numpy_generator("merlin", self.name, "epoch", seed, epoch)
            self._order = (seed, epoch), rng.permutation(starts)
        return self._order[1][place * size : (place + 1) * size]


def _steps(starts: Starts, skip: int, count: int) -> Tensor:
    """Steps skip to skip + count - 1 of each window, (B, count)."""
    return torch.from_numpy(np.asarray(starts)[:, None] + np.arange(skip, skip + count))


def datasets(folder: Path) -> list[str]:
    """Names of the data sets in `prepare`'s output, sorted."""
    return sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))


def _calendar(manifest: dict[str, Any], length: int) -> tuple[Tensor, Tensor]:
    """Step of the day and day of the week of every step, (L,) int64 each.

    Whole numbers, to be used as rows of an embedding. (The published code stores the day as a
    share of the week and casts it to an integer: its embedding has one row in use.) A record
    without dates counts from midnight of a Monday.
    """
    step = manifest["step_minutes"]
    start = datetime.fromisoformat(manifest["start"]) if manifest["start"] else None
    minute = start.hour * 60 + start.minute if start else 0
    minutes = minute + step * torch.arange(length)
    day = start.weekday() if start else 0
    return minutes % DAY // step, (day + minutes // DAY) % 7
