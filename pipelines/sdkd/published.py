"""What a published set is described by in params.yaml, and what reading one gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from pydantic import Field, model_validator

from stages.core import params as core
from stages.core.errors import UserError

Array = NDArray[Any]
Axes = Literal["NTCHW", "TCHW", "NTHW", "THW"]


class Published(core.Params):
    """A published set.

    Attributes:
        layout: see `layouts.py`.
        root: its file or folder, best given relative to the project.
        variables: names of arrays or, for weatherbench, folders, one a channel; none for the only
            one there is. fno has one at most, taxibj none.
        every: keep every so many frames.
        coarsen: keep every so many points of height and width.
        tiles: parts of the width, for one simulation in rayleigh_benard; else 1.
        axes: of the array as stored, for rayleigh_benard; null where its number of axes leaves no
            doubt.
    """

    layout: Literal["fno", "taxibj", "weatherbench", "rayleigh_benard"]
    root: str
    variables: list[str]
    every: int = Field(ge=1)
    coarsen: int = Field(ge=1)
    tiles: int = Field(ge=1)
    axes: Axes | None

    @model_validator(mode="after")
    def _used(self) -> Published:
        """Nothing may be given that the layout does not heed."""
        most = {"taxibj": 0, "fno": 1}.get(self.layout)
        if most is not None and len(self.variables) > most:
            allowed = "none: its files have fixed names" if most == 0 else "one array"
            raise ValueError(f"variables of the layout {self.layout} must be {allowed}")
        if len(set(self.variables)) < len(self.variables):
            raise ValueError(f"variables names one twice: {self.variables}")
        if self.layout != "rayleigh_benard" and (self.tiles > 1 or self.axes):
            raise ValueError(
                f"the layout {self.layout} takes tiles: 1 and axes: null; others are for "
                "rayleigh_benard"
            )
        if len(self.variables) > 1 and self.axes and "C" in self.axes:
            raise ValueError(
                f"variables names {len(self.variables)} arrays, a channel each, so that axes must "
                f"be NTHW or THW, not {self.axes}"
            )
        return self


@dataclass(frozen=True)
class Found:
    """What was read: split -> (N, T, C, H, W) float32, and what it is."""

    title: str
    unit: str
    fields: dict[str, Array]


Counts = Mapping[str, int]


def places(there: int, counts: Counts) -> list[int]:
    """Which of `there` trajectories are used, in order: the first, and the last."""
    late = counts["valid"] + counts["test"]
    return [*range(counts["train"]), *range(there - late, there)]


def parted(fields: Array, counts: Counts, root: Path) -> dict[str, Array]:
    """The splits of trajectories (N, …): see `layouts.py`.

    Raises:
        UserError: there are too few.
    """
    needed = sum(counts.values())
    if len(fields) < needed:
        raise UserError(
            f"'{root}' has {len(fields)} trajectories, fewer than the {needed} of "
            "'sdkd.prepare.trajectories' in params.yaml"
        )
    late = len(fields) - counts["test"]
    return {
        "train": fields[: counts["train"]],
        "valid": fields[late - counts["valid"] : late],
        "test": fields[late:],
    }


def only(root: Path, suffix: str) -> Path:
    """The only entry of a folder with this ending, or `root` itself where that is a file."""
    if root.is_file():
        return root
    entries = root.iterdir() if root.is_dir() else ()
    found = sorted(p for p in entries if p.name.endswith(suffix) and p.name[0] != ".")
    if len(found) != 1:
        what = f"one file *{suffix}" if suffix else "one entry"
        raise UserError(
            f"'{root}': expected {what}, found {', '.join(p.name for p in found[:9]) or 'none'}"
        )
    return found[0]
