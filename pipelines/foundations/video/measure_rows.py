"""Answers as rows of the table of scores.

Conditions are the names of bits. Rows without a condition are of what is not quantized, and give
the others their scale: `full`, the full-precision network; `full_again`, the same from other noise,
as far from `full` as clips that share nothing with it; `real`, clips of the test split, whose
distance from real ones is that of the valid split's, whose digits other people wrote.

`agreement` is the share of clips in which the classifier finds all that was asked for, digit and
direction; `same_as_full` that in which it finds what it finds in full precision's clip from the
same noise. `sqnr` is of v, `sqnr_noise` of the noise that follows from it: the state that both
share being known, they differ by the same decibels in all arms, but where a step that is nearly all
noise takes the latter to its limit.

A Fréchet distance belongs to a set of clips, not to one. Its rows are what each clip contributes,
so that their mean is the distance, and intervals made by drawing clips anew, the same ones in both
arms, cover the choice of clips: see `contributions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pipelines.foundations.video.data import normal
from pipelines.foundations.video.judges import Judges
from pipelines.foundations.video.measure_arms import BITS, Answers
from pipelines.foundations.video.measure_held import Held
from pipelines.foundations.video.measure_plan import Unit
from stages.evaluate import tables
from stages.evaluate.diffusion import fidelity
from stages.evaluate.frechet import frechet
from stages.evaluate.motion import compared

if TYPE_CHECKING:
    from pandas import DataFrame

FULL, AGAIN, REAL = "full", "full_again", "real"
HEADLINE, SPREAD, SCORE_SPREAD = "sqnr", "sqnr_gap", "score_gap"
FULL_BITS = 32.0
"""Of a number of the network as it was trained."""
Direction = Literal["higher", "lower", "none"]
METRICS: dict[str, tuple[str, Direction]] = {
    HEADLINE: ("dB", "higher"),
    "sqnr_noise": ("dB", "higher"),
    SPREAD: ("dB", "lower"),
    SCORE_SPREAD: ("dB", "lower"),
    "agreement": ("share", "higher"),
    "same_as_full": ("share", "higher"),
    "drift": ("share", "lower"),
    "psnr": ("dB", "higher"),
    "ssim": ("1", "higher"),
    "frechet_full": ("σ²", "lower"),
    "frechet_real": ("σ²", "lower"),
    "flicker_change": ("of the range", "none"),
    "flicker_error": ("of the range", "lower"),
    "similarity_error": ("1", "lower"),
    **dict.fromkeys(BITS, ("bits", "lower")),
}
"""Unit and better direction of each metric; those of a column of labels are agreement's."""


@dataclass(frozen=True)
class Told:
    """What a paper adds to the scores of a model: one metric of some items."""

    metric: str
    unit: str
    direction: Direction
    items: Sequence[str]
    values: Sequence[float]


class Table:
    """Rows of one evaluation, and the judges' view of full precision's clips and the real ones."""

    def __init__(self, held: Held, jury: Judges, paper: str, backbone: str, dataset: str) -> None:
        self.held, self.jury = held, jury
        self.key = {"paper": paper, "backbone": backbone, "dataset": dataset}
        self.full = normal(held.clips)
        self.named = jury.named(self.full)
        self.vectors = {
            name: jury.vectors(normal(clips))
            for name, clips in ((FULL, held.clips), (REAL, held.real))
        }

    def references(self) -> DataFrame:
        """`full`, `full_again` and `real`."""
        import pandas

        held, parts = self.held, []
        again = normal(held.again)
        for variant, clips in ((FULL, self.full), (AGAIN, again), (REAL, normal(held.real))):
            key = {"variant": variant, "condition": "", "seed": 0}
            parts += self._judged(clips, key)
            # Real clips are held against as many others: the floor that sampling leaves.
            shown = normal(held.other) if variant == REAL else clips
            parts.append(self._distance(shown, REAL, key))
            if variant == AGAIN:
                parts.append(self._distance(shown, FULL, key))
        key = {"variant": FULL, "condition": "", "seed": 0}
        parts += [self._rows([FULL_BITS], [""], name, **key) for name in BITS]
        return pandas.concat(parts)

    def of(self, unit: Unit, answers: Answers, told: Iterable[Told]) -> DataFrame:
        """All rows of one model; of its clips only where it has been asked for all of them."""
        import pandas

        key = {"variant": unit.variant, "condition": unit.condition, "seed": unit.seed}
        ids = self.held.asked.ids
        parts = [self._rows(answers.prediction.mean(0), ids, HEADLINE, **key)]
        known = answers.noise[~answers.noise.isnan().any(1)]
        if len(known):
            parts.append(self._rows(known.mean(0), ids, "sqnr_noise", **key))
        for name, value in zip(BITS, answers.bits.tolist(), strict=True):
            parts.append(self._rows([value], [""], name, **key))
        for each in told:
            more: dict[str, Any] = {"unit": each.unit, "direction": each.direction}
            parts.append(
                tables.rows(each.values, each.items, metric=each.metric, **more, **key, **self.key)
            )
        if len(answers.clips) == len(ids):
            parts += self._free(answers, key)
        return pandas.concat(parts)

    def _free(self, answers: Answers, key: dict[str, Any]) -> list[DataFrame]:
        clips, ids = normal(answers.clips), self.held.asked.ids
        parts = self._judged(clips, key)
        parts += [self._distance(clips, name, key) for name in (FULL, REAL)]
        found = {name: score.whole for name, score in fidelity(clips, self.full, 2.0).items()}
        found |= compared(clips, self.full, -1.0, 1.0)
        found |= {"drift": answers.drift[-1]}
        return parts + [
            self._rows(found[name], ids, name, **key)
            for name in ("drift", "psnr", "ssim", "flicker_change", "flicker_error",
                         "similarity_error")
        ]  # fmt: skip

    def _judged(self, clips: Tensor, key: dict[str, Any]) -> list[DataFrame]:
        ids = self.held.asked.ids
        named = self.jury.named(clips)
        right = named == self.held.labels
        parts = [self._rows(right.all(1), ids, "agreement", **key)]
        parts += [
            self._rows(column, ids, f"agreement_{name}", **key)
            for name, column in zip(self.jury.classes, right.T, strict=True)
        ]
        if key["condition"]:
            parts.append(self._rows((named == self.named).all(1), ids, "same_as_full", **key))
        return parts

    def _distance(self, clips: Tensor, other: str, key: dict[str, Any]) -> DataFrame:
        parts = contributions(self.jury.vectors(clips), self.vectors[other])
        return self._rows(parts, self.held.asked.ids, f"frechet_{other}", **key)

    def _rows(
        self, values: Tensor | Sequence[float], items: Sequence[str], metric: str, **key: Any
    ) -> DataFrame:
        unit, direction = METRICS[metric if metric in METRICS else "agreement"]
        numbers = torch.as_tensor(values, dtype=torch.float64).numpy()
        return tables.rows(
            numbers, items[: len(numbers)], metric=metric, unit=unit, direction=direction,
            **key, **self.key,
        )  # fmt: skip


def contributions(a: Tensor, b: Tensor) -> Tensor:
    """What each pair of vectors contributes to the Fréchet distance of two sets, (N,) float64.

    The mean is the distance itself. What differs from it is the distance's influence function
    [Hampel 1974, doi 10.1080/01621459.1974.10482962]: its derivative with respect to the weight of
    a pair. Means of these over clips drawn anew are the distance of the clips that were drawn, to
    first order and without the growth that copies of clips cause.

    Args:
        a, b: (N, D), of the same N prompts.
    """
    a, b = a.double(), b.double()
    gap, x, y = a.mean(0) - b.mean(0), a - a.mean(0), b - b.mean(0)
    first, second = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(a.shape[1], -1)
    one = torch.eye(len(first), dtype=first.dtype)
    # Of tr(Σa + Σb - 2(ΣaΣb)^½) the derivative by Σa is 1 less the linear map that takes the first
    # Gaussian to the second [Dowson & Landau 1982].
    change = 2 * x @ gap + (x @ (one - _map(first, second)) * x).sum(1)
    change = change - 2 * y @ gap + (y @ (one - _map(second, first)) * y).sum(1)
    return frechet(a, b) + change - change.mean()


def _map(first: Tensor, second: Tensor) -> Tensor:
    """The symmetric matrix that takes one covariance to the other: Σb^½(Σb^½ΣaΣb^½)^-½Σb^½."""
    root = _power(second, 0.5)
    return root @ _power(root @ first @ root, -0.5) @ root


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a covariance; of directions in which nothing varies, none."""
    values, vectors = torch.linalg.eigh(matrix)
    varies = values > 1e-12 * values[-1].clamp(min=0)
    powers = torch.where(varies, values, torch.ones_like(values)) ** exponent
    return vectors * torch.where(varies, powers, torch.zeros_like(values)) @ vectors.T


def gaps(table: DataFrame) -> DataFrame:
    """What a claim of a lower variance between calibration sets is about, as distances from means
    over seeds: `sqnr_gap` of the `sqnr` of each clip, `score_gap` of its mean over clips.

    The latter's mean stands in for the standard deviation of a score that published tables give;
    the former sees changes too that cancel between clips. Arms of a single seed have none.
    """
    import pandas

    found = tables.select(table, metric=HEADLINE)
    arm = ["variant", "condition"]
    found = found[found.groupby(arm)["seed"].transform("nunique") > 1]
    clips = found.groupby([*arm, "item"])["value"].transform("mean")
    scores = found.groupby([*arm, "seed"])["value"].transform("mean")
    whole = scores - found.groupby(arm)["value"].transform("mean")
    by_clip = found.assign(value=(found["value"] - clips).abs(), metric=SPREAD)
    by_seed = found.assign(value=whole.abs(), metric=SCORE_SPREAD, item="")
    by_seed = by_seed.drop_duplicates([*arm, "seed"])
    return pandas.concat([by_clip, by_seed]).assign(direction=METRICS[SPREAD][1])
