"""What is hidden from a network: masks over a whole series, 1 = kept, 0 = hidden.

Points missing completely at random (MCAR) as the paper's code draws them: once for the whole
series, for each sensor by itself, exactly int(L * rate) of its L steps, a lower rate's points being
among a higher rate's. Beyond the paper, which tests the four rates that it trains on alone: rates
never seen in training (drawn anew, in no nest), rates that change within a window, and outages of
many steps. All are drawn over all steps, recorded or not; a gap in the record comes on top.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stages.core import params as core
from stages.core.seeding import numpy_generator

Mask = NDArray[np.uint8]
Rate = Annotated[float, Field(gt=0, lt=1)]
Steps = Annotated[int, Field(ge=1, le=10_000)]

CHANGING = "changing"


class Changing(core.Params):
    """Each stretch of `steps` of each sensor has a rate of its own, uniform in [low, high]."""

    low: Annotated[float, Field(ge=0, le=1)]
    high: Annotated[float, Field(ge=0, le=1)]
    steps: Steps

    @model_validator(mode="after")
    def _ordered(self) -> Changing:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class Blocks(core.Params):
    """Outages of `shortest` to `longest` steps, of each sensor by itself."""

    rates: Annotated[list[Rate], Field(min_length=1)]
    shortest: Steps
    longest: Steps

    @model_validator(mode="after")
    def _ordered(self) -> Blocks:
        if self.shortest > self.longest:
            raise ValueError("shortest must not be above longest")
        return self


class Masks(core.Params):
    """
    Attributes:
        seed: of all draws.
        nested: rates of the views that training may see.
        unseen: further rates, for tests alone.
        changing, blocks: further kinds, for tests alone; null leaves one out.
    """

    seed: Annotated[int, Field(ge=0)]
    nested: Annotated[list[Rate], Field(min_length=1)]
    unseen: list[Rate]
    changing: Changing | None
    blocks: Blocks | None

    @model_validator(mode="after")
    def _distinct(self) -> Masks:
        named = [key("mcar", rate) for rate in (*self.nested, *self.unseen)]
        named += [key("block", rate) for rate in (self.blocks.rates if self.blocks else ())]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"two rates share the name {', '.join(twice)} (whole percents)")
        return self


def key(kind: str, rate: float) -> str:
    """Name of a mask: kind and rate in percent, "mcar-25"."""
    return f"{kind}-{round(100 * rate)}"


def rate_of(name: str) -> float | None:
    """The missing rate in a mask's name; None where it has none ("complete", "changing")."""
    _, dash, percent = name.rpartition("-")
    return int(percent) / 100 if dash else None


def draw(params: Masks, length: int, sensors: int, dataset: str) -> dict[str, Mask]:
    """All masks of a data set.

    Args:
        length: L, steps of the series.
        sensors: N.
        dataset: its name, part of the seed.

    Returns:
        Name -> (L, N) uint8, 1 = kept.
    """
    seed = ("merlin", dataset, params.seed)
    made = {
        key("mcar", rate): mask
        for rate, mask in nested(length, sensors, params.nested, *seed, "nested").items()
    }
    for rate in params.unseen:
        name = key("mcar", rate)
        made[name] = nested(length, sensors, [rate], *seed, name)[rate]
    if params.changing:
        made[CHANGING] = changing(length, sensors, params.changing, *seed, CHANGING)
    if params.blocks:
        for rate in params.blocks.rates:
            name = key("block", rate)
            made[name] = blocks(length, sensors, rate, params.blocks, *seed, name)
    return made


def nested(length: int, sensors: int, rates: list[float], *seed: int | str) -> dict[float, Mask]:
    """MCAR masks: the first int(L * rate) of one random order of each sensor's steps are hidden."""
    rng = numpy_generator(*seed)
    made = {rate: np.ones((length, sensors), dtype=np.uint8) for rate in rates}
    for sensor in range(sensors):
        order = rng.permutation(length)
        for rate, mask in made.items():
            mask[order[: int(length * rate)], sensor] = 0
    return made


def changing(length: int, sensors: int, how: Changing, *seed: int | str) -> Mask:
    """Points hidden at random with a rate that changes every `how.steps` steps.

    The stretches of the sensors begin at different steps, so that every window sees changes.
    """
    rng = numpy_generator(*seed)
    stretches = rng.uniform(how.low, how.high, (length // how.steps + 2, sensors))
    begin = rng.integers(0, how.steps, sensors)
    which = (np.arange(length)[:, None] + begin) // how.steps
    rates = np.take_along_axis(stretches, which, axis=0)
    return (rng.random((length, sensors)) >= rates).astype(np.uint8)


def blocks(length: int, sensors: int, rate: float, how: Blocks, *seed: int | str) -> Mask:
    """Outages that hide exactly int(L * rate) steps of each sensor.

    Their lengths are uniform between shortest and longest (the last is cut to meet the count); the
    kept steps are dealt at random into the spaces between them, so outages may touch. The whole is
    turned by a random number of steps, so that no step is likelier to be hidden than another.
    """
    rng = numpy_generator(*seed)
    mask = np.ones((length, sensors), dtype=np.uint8)
    hidden = int(length * rate)
    for sensor in range(sensors):
        sizes = rng.integers(how.shortest, how.longest + 1, hidden // how.shortest + 1)
        ends = np.minimum(sizes.cumsum(), hidden)
        sizes = np.diff(ends[: np.searchsorted(ends, hidden) + 1], prepend=0)
        sizes = rng.permutation(sizes[sizes > 0])
        before = np.sort(rng.integers(0, length - hidden + 1, len(sizes)))  # kept steps so far
        starts = before + sizes.cumsum() - sizes + rng.integers(length)
        mask[(np.repeat(starts, sizes) + _within(sizes)) % length, sensor] = 0
    return mask


def _within(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, …, size - 1 for each size, one after the other."""
    return np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
