"""The parameters of both papers' bench."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.bench import latency
from stages.bench.integer.graphs import as_run
from stages.core import params as core

Count = Annotated[int, Field(ge=1)]
Kernels = Annotated[list[Literal["exact", "tensor", "blocks"]], Field(min_length=1)]


class Often(core.Params):
    """See `stages.bench.latency.Plan`."""

    rounds: Count
    repeats: Count
    warmup: int = Field(ge=0)

    @property
    def plan(self) -> latency.Plan:
        return latency.Plan(self.rounds, self.repeats, self.warmup)


class Product(core.Params):
    """Some tokens and a square weight."""

    tokens: Count
    width: Count


class Limits(core.Params):
    """Products that tell what the machine can do at best.

    Attributes:
        arithmetic: products with a square weight; the best rate of all counts.
        reading: width of the square float32 weight that one token reads; far beyond the caches.
    """

    arithmetic: Annotated[list[Product], Field(min_length=1)]
    reading: Count
    often: Often


class Models(core.Params):
    """Quantized networks of ours, whole, as they are deployed.

    Attributes:
        arms: of quantize -> kernels; none where networks are too large for it.
        bits: of quantize, of which each runs as another.
        seed: of quantize.
        clips: held-out prompts on whose walks the graphs' outputs are judged, the first of those
            that evaluate takes.
    """

    arms: dict[str, Kernels]
    bits: Annotated[list[str], Field(min_length=1)]
    seed: int = Field(ge=0)
    clips: Count
    often: Often

    @model_validator(mode="after")
    def _apart(self) -> Models:
        """Rows are told apart by what runs."""
        if len({as_run(bits) for bits in self.bits}) < len(self.bits):
            raise ValueError(f"bits: two of {', '.join(self.bits)} run alike")
        return self


class Blocks(core.Params):
    """Blocks at the shapes of published networks, with random weights.

    Attributes:
        arms: of quantize -> kernels.
        bits: any that quantize could be given.
        nets: published network -> tokens of whole blocks; a slice of its clip comes with each.
        part: tokens of that slice.
        attention_gb: 10^9 bytes that attention's scores, and a slice's keys and values, may take;
            larger ones are left out, and the page says so.
        gigamacs: 10^9 multiply-accumulates that a graph's timed runs take in a round, about; at
            least one run, and no more than `often.repeats`.
        often: with two untimed runs or more: until its second run the runtime's memory still
            grows, and that run of a large slice took twice as long as the next.
    """

    arms: Annotated[dict[str, Kernels], Field(min_length=1)]
    bits: str
    nets: Annotated[dict[str, list[Count]], Field(min_length=1)]
    part: Count
    attention_gb: float = Field(gt=0)
    gigamacs: float = Field(gt=0)
    often: Often

    def plan(self, macs: int) -> latency.Plan:
        """How often a block of so many multiply-accumulates runs."""
        turns = max(1, min(self.often.repeats, int(1e9 * self.gigamacs / macs)))
        return replace(self.often.plan, repeats=turns)


class Stored(core.Params):
    """Arms and bits whose true size at the published shapes is counted."""

    arms: Annotated[list[str], Field(min_length=1)]
    bits: Annotated[list[str], Field(min_length=1)]


class Calibration(core.Params):
    """Arms that are calibrated once more, by themselves, each run in a fresh process."""

    arms: list[str]
    bits: str
    seed: int = Field(ge=0)
    repeats: Count


class Params(core.Params):
    """
    Attributes:
        threads: of the runtime, and of torch while an arm is calibrated.
        held, noise, steps: of evaluate: clips among which it chooses, their seed, and the steps of
            their walks.
    """

    threads: Count
    held: Annotated[int, core.Borrowed("evaluate.free.clips")]
    noise: Annotated[int, core.Borrowed("evaluate.seed")]
    steps: Annotated[int, core.Borrowed("evaluate.forced.steps")]
    limits: Limits
    models: Models
    blocks: Blocks
    stored: Stored
    calibration: Calibration
