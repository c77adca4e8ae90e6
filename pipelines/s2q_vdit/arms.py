"""The arms: which samples, which weights of tokens, which quantizer."""

from __future__ import annotations

from pydantic import Field, model_validator

from pipelines.s2q_vdit.base import Base
from pipelines.s2q_vdit.selection import Selection
from stages.core.params import Params


class Arm(Params):
    """One variant.

    All arms calibrate on as many samples, and all that learn make as many updates. How many numbers
    each of them learns is told with its result.

    Attributes:
        selection: of the calibration samples; null for a quantizer that sees no data.
        least: λ_min of sparse token distillation; null where all tokens count alike.
        base: the quantizer.
    """

    selection: Selection | None
    least: float | None = Field(ge=0, lt=1)
    base: Base

    @model_validator(mode="after")
    def _consistent(self) -> Arm:
        if (self.selection is None) == self.base.sees:
            raise ValueError(
                "a quantizer that learns, scales or uses GPTQ needs a selection, and any other "
                "(rounding to the nearest, a fixed rotation) sees no data"
            )
        if self.least is not None and not self.base.learns:
            raise ValueError("tokens are weighted while something learns; here nothing does")
        return self
