"""What a bench of quantized networks found, before it is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.bench.integer.cases import Case
from stages.bench.integer.graphs import Timed
from stages.bench.integer.once import Cost
from stages.bench.kernels.roofline import Limits
from stages.bench.ratio import Ratio
from stages.quantize.bits import Stored

HALF = "bf16"
"""The variant of 16 bits a number, for sizes: ordinary processors have no kernels for it."""


@dataclass(frozen=True)
class Quality:
    """What a deployed graph computes, in dB of signal over error, a value a clip.

    Attributes:
        bits: of quantize.
        evaluated: of the fake-quantized network against full precision: what `evaluate` judges.
        deployed: of the graph against full precision.
        apart: of the graph against the fake-quantized network.
        kernel: of the graph against the same network with the kernel's own rounding.
    """

    backbone: str
    variant: str
    bits: str
    seed: int
    clips: list[str]
    evaluated: list[float]
    deployed: list[float]
    apart: list[float]
    kernel: list[float]


@dataclass(frozen=True)
class Bits:
    """What a network takes, with numbers of 16 bits where it has any.

    Attributes:
        file_mb: of its file of packed integers, as it was saved; None where there is none.
    """

    backbone: str
    variant: str
    bits: str
    seed: int
    stored: Stored
    file_mb: float | None


@dataclass(frozen=True)
class Plain:
    """A network of ours that is not quantized, as a file.

    Attributes:
        files_mb: variant, `HALF` or `FULL` -> what safetensors makes of all its tensors in 16 or
            in 32 bits, header included.
    """

    backbone: str
    seed: int
    files_mb: Mapping[str, float]


@dataclass(frozen=True)
class Update:
    """What an update of block reconstruction costs beside the block's own pass.

    Attributes:
        backbone: the block, by its width.
    """

    backbone: str
    arm: str
    bits: str
    ratio: Ratio


@dataclass(frozen=True)
class Results:
    """All that was measured.

    Attributes:
        machine: in words.
        labels: what the arms are called.
        steps: of sampling a clip.
        judged: which clips quality was judged on, in words.
        models, blocks: graphs of whole networks, and of blocks of published ones.
        beyond: blocks whose attention would take more than `attention_gb`.
        plain: our networks in full precision.
        costs: of calibrating arms, at bits `calibrated`, and of the samples that they share.
        updates: of block reconstruction; none where a whole network learns at once.
    """

    paper: str
    machine: str
    labels: Mapping[str, str]
    steps: int
    judged: str
    limits: Limits
    models: Sequence[Timed]
    quality: Sequence[Quality]
    blocks: Sequence[Timed]
    beyond: Sequence[Case]
    attention_gb: float
    bits: Sequence[Bits]
    plain: Sequence[Plain]
    costs: Sequence[Cost]
    calibrated: str
    updates: Sequence[Update]
