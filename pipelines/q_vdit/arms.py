"""The arms: what is done to a layer before it is quantized, beside it, and what is then learned.

All share the base quantizer of `plan`, one calibration set a seed, and, where they learn, steps of
the quantizer and one low-rank branch of rank 1 a layer, unless an arm asks for more: `trainable`
of each result counts what they are.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipelines.q_vdit.tmd import Temporal
from stages.core.params import Params


class Search(Params):
    """Group sizes by evolution, see `groups`."""

    group: int = Field(ge=2)
    """Whose number of steps, were it that of all layers, is the budget."""
    sizes: list[int] = Field(min_length=2)
    population: int = Field(ge=4)
    generations: int = Field(ge=1)
    samples: int = Field(ge=1)


class Arm(Params):
    """One variant; without any field it is rounding to the nearest.

    Attributes:
        scale: channels of activations against the weight's, by SmoothQuant with `alpha` or by
            PTQ4DiT's salience.
        rotated: a Hadamard matrix with random signs, after the scale.
        search: group sizes of weights by layer (Q-DiT).
        inner: rank of a branch in front of the quantizer (EfficientDM).
        beside: a branch beside the layer: the estimator (`token`), or the largest singular
            directions of the weight (`svd`, of rank `rank`).
        gain: of the estimator: none; `measured`, starting at equation 9; or `doubled`, the
            release's, in the attention along time alone.
        scope: over what is learned: nothing, the whole model's output, or each block's.
        rates: of the inner branch, in proportion to each layer's steps or not.
        branch_rate: the arm's own learning rate of branches, where the shared one, tried on arms
            with branches of rank 1, does not suit.
        temporal: the term of temporal maintenance.
        inputs: whether activations are quantized while branches learn.
        masked: whether the student is given the text's mask while it learns.
    """

    scale: Literal["none", "smooth", "balanced"] = "none"
    alpha: float | None = Field(default=None, ge=0, le=1)
    rotated: bool = False
    search: Search | None = None
    inner: int | None = Field(default=None, ge=1)
    beside: Literal["none", "token", "svd"] = "none"
    rank: int | None = Field(default=None, ge=1)
    gain: Literal["none", "measured", "doubled"] = "none"
    scope: Literal["none", "model", "block"] = "none"
    rates: Literal["plain", "scale_aware"] = "plain"
    branch_rate: float | None = Field(default=None, gt=0)
    temporal: Temporal | None = None
    inputs: bool = True
    masked: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> Arm:
        if (self.alpha is None) == (self.scale == "smooth"):
            raise ValueError("alpha belongs to scale 'smooth', and only there")
        if (self.rank is None) == (self.beside == "svd"):
            raise ValueError("a rank belongs to beside 'svd', and only there")
        if self.gain != "none" and self.beside != "token":
            raise ValueError("a gain belongs to beside 'token'")
        if self.inner is not None and self.beside == "svd":
            raise ValueError("an inner branch would be where 'svd' keeps what it has taken away")
        if self.rates == "scale_aware" and self.inner is None:
            raise ValueError("rates 'scale_aware' are an inner branch's")
        if self.branch_rate is not None and (self.inner is None and self.beside != "token"):
            raise ValueError("a branch_rate needs a branch that learns: inner, or beside 'token'")
        if self.scope == "none" and (self.inner is not None or self.beside == "token"):
            raise ValueError("a branch that starts at zero must learn: give a scope")
        plain = self.temporal is None and self.inputs and self.masked
        if self.scope != "model" and not plain:
            raise ValueError("temporal, inputs and masked belong to scope 'model'")
        if self.search is not None and self.scope != "none":
            raise ValueError("group sizes are searched for with nothing learned")
        return self
