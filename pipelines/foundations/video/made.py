"""What every source of clips gives to `prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipelines.foundations.video.data import SPLITS
from stages.core import params as core

Bytes = NDArray[np.uint8]


class Counts(core.Params):
    """Clips in each split."""

    train: int = Field(ge=1)
    valid: int = Field(ge=1)
    test: int = Field(ge=1)


class Shares(core.Params):
    """How what clips are made from is dealt out, so that no two splits share any of it."""

    train: float = Field(gt=0, lt=1)
    valid: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        if abs(self.train + self.valid + self.test - 1) > 1e-9:
            raise ValueError("train, valid and test must add up to 1")
        return self

    def bounds(self, count: int) -> dict[str, tuple[int, int]]:
        """First of `count` things, and the one after the last, of each split."""
        first, second = round(count * self.train), round(count * (self.train + self.valid))
        return dict(zip(SPLITS, ((0, first), (first, second), (second, count)), strict=True))


@dataclass(frozen=True)
class Form:
    """Of every clip, whatever its source: frames, and their size in pixels."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Part:
    """One split.

    Attributes:
        clips: (N, T, H, W, C).
        labels: (N, K) class numbers, a column for each name of `Made.classes`.
        captions: N of them.
    """

    clips: Bytes
    labels: NDArray[np.int64]
    captions: list[str]


@dataclass(frozen=True)
class Made:
    """A data set.

    Attributes:
        parts: split -> its clips.
        classes: what clips are told apart by -> names of its classes.
        about: title, where it comes from, author, licence, counts: for the manifest.
    """

    parts: dict[str, Part]
    classes: Mapping[str, list[str]]
    about: dict[str, Any]


def turns(count: int, kinds: int) -> NDArray[np.int64]:
    """The kind of each clip: kinds take turns, so that any stretch of clips is balanced."""
    return np.arange(count, dtype=np.int64) % kinds
