"""The arms of SDKD: what a student is asked to share with which teachers, and how strongly.

Each arm is the mean squared error plus lambda times a distillation loss. `lambda` and, where both
bands count, `alpha` are chosen by the stage `tune`, by the same number of tries in each arm.
"""

from __future__ import annotations

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


def faded(fade: Fade, step: int, steps: int) -> float:
    """The share of lambda that counts at a step (1, 2, …, `steps`)."""
    return 1.0 if fade == "constant" else 1.0 - (step - 1) / steps
