"""What an arm is: which parts of Merlin's loss it has, what it sees, where it starts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.merlin.configs import Backbone
from pipelines.merlin.impute import Kind
from stages.core.params import Params

Name = Annotated[str, Field(min_length=1)]


class Weights(Params):
    """Of the loss, as published but for `decay` and `apart`, which are true and false there.

    Attributes:
        forecast, teacher, contrast: w_pre, w_KD, w_CL.
        temperature: of the contrastive loss.
        full_epochs: epochs before teacher and contrast begin to fade.
        decay: whether they fade at all.
        apart: whether windows that share steps are no rivals of each other.
    """

    forecast: float = Field(gt=0)
    teacher: float = Field(ge=0)
    contrast: float = Field(ge=0)
    temperature: float = Field(gt=0)
    full_epochs: int = Field(ge=0)
    decay: bool
    apart: bool


class Arm(Params):
    """One variant.

    Attributes:
        hidden, result, contrast: parts of the loss beside the forecast's own error.
        clean: the complete history is one more view.
        per_rate: a model of its own for each missing rate.
        input: what stands in a hole (see `impute.inputs`).
        init: weights at the start. `frozen`: the teacher itself, not trained any further.
        weights: take the place of the section's.
    """

    backbones: Annotated[list[Backbone], Field(min_length=1)]
    datasets: Annotated[list[Name], Field(min_length=1)]
    hidden: bool = False
    result: bool = False
    contrast: bool = False
    clean: bool = False
    per_rate: bool = False
    input: Kind = "zeros"
    init: Literal["fresh", "teacher", "frozen"] = "fresh"
    weights: Weights | None = None

    @property
    def taught(self) -> bool:
        """Whether its loss asks the teacher."""
        return self.hidden or self.result

    @model_validator(mode="after")
    def _possible(self) -> Arm:
        if self.contrast and self.per_rate:
            raise ValueError("contrast needs several views of a window, per_rate gives one")
        if self.init == "frozen" and (self.taught or self.contrast or self.clean or self.per_rate):
            raise ValueError("init: frozen trains nothing; hidden, result, contrast, clean and "
                             "per_rate say how to train")  # fmt: skip
        if self.init != "fresh" and self.input == "mask":
            raise ValueError("the teacher takes no mask: input: mask needs init: fresh")
        if self.hidden and self.input == "mask" and "tsmixer" in self.backbones:
            raise ValueError("with input: mask the hidden representation of tsmixer is twice as "
                             "wide as its teacher's: hidden cannot compare them; take tsmixer or "
                             "one of the two out")  # fmt: skip
        return self
