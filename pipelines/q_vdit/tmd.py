"""Temporal maintenance distillation: the student keeps how alike the teacher's frames are.

    T_ij = ρ(S_i, S_j)                cosines between frames of the model's output   (equation 13)
    D_i  = softmax_j(T_ij)            who resembles frame i                          (equation 14)
    L    = ‖S^Q - S^FP‖² + γ Σ_i KL(D_i^FP ‖ D_i^Q)                          (equations 15 and 19)

Cosines lie in [-1, 1] and have no temperature, so every D_i is nearly uniform and the divergence
tiny beside the error of the output: hence the large γ.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from pipelines.q_vdit.released import scrambled
from stages.core.params import Params
from stages.quantize.reconstruct import weighted_error


class Temporal(Params):
    """How the term is laid on.

    Attributes:
        weight: γ.
        reduction: `sum` over i, as equation 15 has it, or `mean` over i and j as well, as in the
            release, whose γ = 100 is a γ of 100 / T² for the sum. Clips are averaged in both.
        frames: on their axis, or as the release mistakes them.
    """

    weight: float = Field(gt=0)
    reduction: Literal["sum", "mean"]
    frames: Literal["axis", "scrambled"]


PLAIN = Temporal(weight=1.0, reduction="mean", frames="axis")
"""In which the term is reported for every arm, whatever it was trained with."""


def similarity(frames: Tensor) -> Tensor:
    """Cosines between the rows of (B, T, N): (B, T, T), with the ones of the diagonal."""
    unit = functional.normalize(frames, dim=-1)
    return unit @ unit.mT


def divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """Σ_i KL(softmax wanted_i ‖ softmax found_i) of similarities (B, T, T): (B,).

    Its gradient by found_ij is D_ij - D_ij^FP, which is equation 17 simplified.
    """
    ours, theirs = (part.log_softmax(-1) for part in (found, wanted))
    return (theirs.exp() * (theirs - ours)).sum((1, 2))


def temporal_loss(output: Tensor, target: Tensor, spec: Temporal) -> Tensor:
    """γ times the divergence, of a student's and the teacher's clips (B, T, C, H, W): a scalar."""
    cut = scrambled if spec.frames == "scrambled" else _by_frame
    found, wanted = (similarity(cut(part.float())) for part in (output, target))
    value = divergence(found, wanted).mean()
    if spec.reduction == "mean":
        value = value / found.shape[-1] ** 2
    return spec.weight * value


class Objective:
    """The loss that whole-model reconstruction lowers: mean squared error, and the term if any."""

    def __init__(self, temporal: Temporal | None) -> None:
        self.temporal = temporal

    def __call__(self, output: Tensor, target: Tensor, _: Tensor) -> Tensor:
        error = weighted_error(output, target)
        if self.temporal is None:
            return error
        return error + temporal_loss(output, target, self.temporal)


def temporal_only(output: Tensor, target: Tensor, _: Tensor) -> Tensor:
    """The term by itself, as `PLAIN` has it."""
    return temporal_loss(output, target, PLAIN)


def _by_frame(x: Tensor) -> Tensor:
    return x.flatten(2)
