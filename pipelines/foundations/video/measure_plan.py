"""What papers measure of their quantized teachers: which cells, on how many clips.

A cell is a variant at some bits and one calibration seed. Every cell is judged step by step on
full precision's own walks from noise to clip (`forced`); only headline cells, which cost some
hundred times as much, walk by themselves (`free`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from stages.core import params as core
from stages.core.dag import seed_range
from stages.core.errors import UserError
from stages.evaluate import folders

Count = Annotated[int, Field(ge=1)]


class Forced(core.Params):
    """
    Attributes:
        clips: of those held out, whose walks are gone along.
        steps: of each walk, evenly spaced.
    """

    clips: Count
    steps: Count


class Free(core.Params):
    """
    Attributes:
        clips: held out, the first of the test split, asked for by their captions.
        cells: condition -> variant -> how many of its seeds, the first ones.
    """

    clips: Annotated[int, Field(ge=2)]
    cells: dict[str, dict[str, Count]]


class Shown(core.Params):
    """What the strips of frames show: every variant under these conditions, at its first seed."""

    conditions: list[str]
    clips: Count


class Settings(core.Params):
    """Parameters of a paper's evaluation, which adds `conditions`, the names of its bits.

    Attributes:
        seed: of the clips' noise.
        batch: clips at once; decides the speed alone, but for the last digits.
    """

    seed: int = Field(ge=0)
    batch: Count
    forced: Forced
    free: Free
    shown: Shown
    conditions: list[str]
    variants: Annotated[dict[str, dict[str, Any]], core.Borrowed("quantize.variants")]
    seeds: Annotated[list[str], core.Borrowed("quantize.seeds")]

    @model_validator(mode="after")
    def _there(self) -> Settings:
        numbers = self.numbers
        for condition, cells in self.free.cells.items():
            for variant, count in cells.items():
                if count > len(numbers):
                    raise ValueError(
                        f"free.cells asks for {count} seeds of {variant}, but quantize makes "
                        f"{len(numbers)}"
                    )
            _known(cells, self.variants, f"free.cells.{condition}", "variant")
        _known(self.free.cells, self.conditions, "free.cells", "condition")
        _known(self.shown.conditions, self.conditions, "shown.conditions", "condition")
        for name, count in (("forced", self.forced.clips), ("shown", self.shown.clips)):
            if count > self.free.clips:
                raise ValueError(f"{name}.clips is {count}, but free.clips {self.free.clips}")
        return self

    @property
    def numbers(self) -> list[int]:
        """All seeds, rising."""
        return sorted(seed for text in self.seeds for seed in seed_range(text))

    def clips_of(self, unit: Unit) -> int:
        """How many clips a cell walks to by itself: all, those that are shown, or none."""
        first = self.numbers.index(unit.seed)
        if first < self.free.cells.get(unit.condition, {}).get(unit.variant, 0):
            return self.free.clips
        shown = unit.condition in self.shown.conditions and first == 0
        return self.shown.clips if shown else 0


def _known(names: Collection[str], there: Collection[str], where: str, what: str) -> None:
    strange = sorted(set(names) - set(there))
    if strange:
        raise ValueError(f"{where} names {', '.join(strange)}, which is no {what}")


@dataclass(frozen=True)
class Unit:
    """One quantized model: its cell, and the folder that holds it."""

    variant: str
    condition: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.condition}-seed{self.seed}"


def units(folder: Path, settings: Settings, told: str) -> list[Unit]:
    """All models that params.yaml names, `<variant>/<seeds>/<condition>/seed<n>` below `folder`.

    Args:
        told: the file that each of them must have.

    Raises:
        UserError: one is missing, or one lies there that params.yaml does not name.
    """
    found = []
    runs = folders.runs(folder, settings.variants, settings.seeds)
    for variant, places in runs.items():
        for seed, place in places:
            folders.same_folders(place, settings.conditions)
            for condition in settings.conditions:
                unit = Unit(variant, condition, seed, place / condition / f"seed{seed}")
                if not (unit.folder / told).is_file():
                    shown = "/".join(unit.folder.parts[-4:])
                    raise UserError(f"{shown} has no {told}; `dvc repro` makes it")
                found.append(unit)
    return found


def spaced(total: int, count: int) -> list[int]:
    """`count` of `total` steps, the middles of equal parts of a walk; all where there are fewer."""
    count = min(count, total)
    return [(2 * k + 1) * total // (2 * count) for k in range(count)]
