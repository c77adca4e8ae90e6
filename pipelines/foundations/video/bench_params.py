"""The parameters of both papers' bench."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.bench import latency
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


class Limits(core.Params):
    """Products that tell what the machine can do at best.

    Attributes:
        tokens, width: of the product with a square weight, for arithmetic.
        reading: width of the square float32 weight that one token reads; far beyond the caches.
    """

    tokens: Count
    width: Count
    reading: Count
    often: Often


class Models(core.Params):
    """Quantized networks of ours, whole, as they are deployed.

    Attributes:
        arms: of quantize -> kernels; none where networks are too large for it.
        bits: of quantize.
        seed: of quantize.
        clips: held-out prompts whose walks the graphs' outputs are judged on.
    """

    arms: dict[str, Kernels]
    bits: str
    seed: int = Field(ge=0)
    clips: Count
    often: Often


class Blocks(core.Params):
    """Blocks at the shapes of published networks, with random weights.

    Attributes:
        arms: of quantize -> kernels.
        bits: any that quantize could be given.
        nets: published network -> tokens of whole blocks; a slice of its clip comes with each.
        part: tokens of that slice.
        attention_gb: 10^9 bytes that attention's scores, and a slice's keys and values, may take;
            larger ones are left out, and the page says so.
        often: with two untimed runs or more: until its second run the runtime's memory still
            grows, and that run of a large slice took twice as long as the next.
    """

    arms: Annotated[dict[str, Kernels], Field(min_length=1)]
    bits: str
    nets: Annotated[dict[str, list[Count]], Field(min_length=1)]
    part: Count
    attention_gb: float = Field(gt=0)
    often: Often


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
    """

    threads: Count
    limits: Limits
    models: Models
    blocks: Blocks
    stored: Stored
    calibration: Calibration
