"""The arms of SDKD: what a student is asked to share with which teachers, and how strongly.

Each arm is the mean squared error plus lambda times a distillation loss. `lambda` and, where both
bands count, `alpha` are chosen by the stage `tune`, by the same number of tries in each arm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.sdkd.model import StudentNet
from stages.core import params as core

Loss = Literal["none", "output", "feature", "boundary", "latent_bands", "output_bands", "branches"]
WITH_BANDS = ("latent_bands", "output_bands", "branches")
OF_OUTPUT = ("output", "output_bands")


class Arm(core.Params):
    """One variant.

    Attributes:
        loss: what is compared: forecasts (`output`), latent maps through an adapter (`feature`:
            FitNet; `boundary`: their signs), the bands of latent maps or of forecasts, or the
            latent maps with what the teacher's two branches made (`branches`).
        teachers: folders of `teach`; `<name>-random` is the untrained copy that calibrate keeps.
        high, low: the bands that count.
        by_energy: each band in units of its mean energy, or both as they are (as published).
        combine: two and more teachers count alike, or as AE-KD says.
    """

    loss: Loss
    teachers: list[str]
    high: bool = True
    low: bool = True
    by_energy: bool = True
    combine: Literal["average", "agree"] = "average"

    @model_validator(mode="after")
    def _sensible(self) -> Arm:
        twice = sorted({name for name in self.teachers if self.teachers.count(name) > 1})
        if twice:
            raise ValueError(f"teachers names {', '.join(twice)} twice; each counts once")
        if (self.loss == "none") != (not self.teachers):
            raise ValueError("every loss but 'none' needs teachers, and 'none' takes no teacher")
        if not (self.high or self.low):
            raise ValueError("one of the bands must count")
        if self.loss not in WITH_BANDS and not (self.high and self.low):
            raise ValueError(f"the loss '{self.loss}' has no bands to leave out")
        return self

    @property
    def two_weights(self) -> bool:
        """Whether `alpha` means anything here."""
        return self.loss in WITH_BANDS and self.high and self.low

    @property
    def keys(self) -> tuple[str, ...]:
        """What of a teacher's cache it reads."""
        if self.loss == "none":
            return ()
        if self.loss in OF_OUTPUT:
            return ("output",)
        if self.loss == "branches":
            return tuple(name for name in ("high", "low") if getattr(self, name))
        return ("latent",)


class Weights(core.Params):
    """How strongly an arm distils, and how much the low band counts beside the high one."""

    lambda_: float = Field(ge=0, alias="lambda")
    alpha: float = Field(ge=0)


Fade = Literal["constant", "linear"]
"""Whether lambda stays, or falls to zero in a straight line over the training."""
Bound = Annotated[float, Field(gt=0, le=1)]
Students = Annotated[dict[str, StudentNet], Field(min_length=1)]


class Class(core.Params):
    """`students`: which of tune's students a variant trains."""

    students: Annotated[list[str], Field(min_length=1)]


def untrained(students: Iterable[str], train: Mapping[str, object]) -> str:
    """Why these students cannot be trained, in words; nothing where they can."""
    lacking = [name for name in students if name not in train]
    if not lacking:
        return ""
    return (
        f"tune.students has {', '.join(lacking)}, but distill.train has only "
        f"{', '.join(train) or 'nothing'}; each student needs one entry in both"
    )


def infeasible(arm: Arm, bound: Bound) -> str:
    """Why AE-KD's weights cannot keep below this bound, in words; nothing where they can."""
    count = len(arm.teachers)
    if arm.combine != "agree" or count < 2 or bound * count >= 1:
        return ""
    return (
        f"distill.bound is {bound:g}, but {count} weights of at most that cannot sum to one; it "
        f"must be at least {math.ceil(1000 / count) / 1000:g} for the arm with the teachers "
        f"{', '.join(arm.teachers)}"
    )


def faded(fade: Fade, step: int, steps: int) -> float:
    """The share of lambda that counts at a step (1, 2, …, `steps`)."""
    return 1.0 if fade == "constant" else 1.0 - (step - 1) / steps
