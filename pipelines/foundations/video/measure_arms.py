"""What a quantized model answers: step by step on full precision's walks, and walking by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipelines.foundations.video.measure_held import FILE, Held, along
from pipelines.foundations.video.measure_plan import spaced
from stages.core.files import write_bytes
from stages.evaluate.diffusion import Divergence, forced
from stages.quantize import bits, mixed

BITS = ("weight_bits", "input_bits", "bits_per_weight", "bits_per_value")
"""Mean width of the blocks' codes of weights and of inputs; all that is stored, by quantized weight
and, with biases and layers in full precision, by number of the whole model."""


@dataclass(frozen=True)
class Answers:
    """
    Attributes:
        steps: numbers of the steps that were looked at, (S,), 0 being pure noise.
        prediction: signal to quantization noise of the guided prediction in dB, (S, B) float64.
        noise: that of the noise that follows from it; NaN where it follows from nothing.
        drift: |x̂ - x|² / |x|² along the free walks, (all steps + 1, n) float64; the last at the
            end.
        clips: where these end, (n, T, H, W, C) uint8; n may be 0.
        bits: in the order of `BITS`, float64.
    """

    steps: Tensor
    prediction: Tensor
    noise: Tensor
    drift: Tensor
    clips: Tensor
    bits: Tensor

    def keep(self, folder: Path) -> None:
        write_bytes(folder / FILE, save({k: t.contiguous() for k, t in vars(self).items()}))

    @staticmethod
    def load(folder: Path) -> Answers | None:
        """What `keep` wrote; None where there is nothing yet."""
        file = folder / FILE
        return Answers(**load_file(file)) if file.is_file() else None


def ask(model: nn.Module, held: Held, steps: int, clips: int, layers: Sequence[str]) -> Answers:
    """Judge one model.

    Args:
        steps: of each walk, evenly spaced, at which its prediction is compared.
        clips: to which it walks by itself, the first of those held.
        layers: over which the mean width of codes is taken.
    """
    looked = spaced(len(held.walk.times), steps)
    prediction, noise = _forced(model, held, looked)
    drift, made = _free(model, held, clips)
    return Answers(
        torch.tensor(looked), prediction, noise, drift, made,
        torch.tensor(list(true_bits(model, layers).values()), dtype=torch.float64),
    )  # fmt: skip


def _forced(model: nn.Module, held: Held, steps: list[int]) -> tuple[Tensor, Tensor]:
    parts = []
    for some in held.asked.parts(held.walk.predictions.shape[1]):
        walk = along(held.walk, some, steps)
        parts.append(forced(walk, held.asked.predict(model, some)))
    prediction = torch.cat([part.prediction for part in parts], 1)
    return prediction, torch.cat([part.noise for part in parts], 1)


def _free(model: nn.Module, held: Held, count: int) -> tuple[Tensor, Tensor]:
    every = list(range(len(held.walk.times)))
    drifts = [torch.zeros(len(every) + 1, 0, dtype=torch.float64)]
    clips = [held.clips[:0]]
    for some in held.asked.parts(count):
        # Of the predictions nothing is needed here, and fewer clips have them.
        divergence = Divergence(along(held.walk, some, every))

        def observe(
            number: int, t: Tensor, x: Tensor, out: Tensor, to: Divergence = divergence
        ) -> None:
            to(number, t, x.cpu(), out)

        end = held.asked.sample(model, some, observe)
        drifts.append(divergence.steps(end.cpu()))
        clips.append(held.asked.seen(end))
    return torch.cat(drifts, 1), torch.cat(clips)


def true_bits(model: nn.Module, layers: Sequence[str]) -> dict[str, float]:
    """Mean widths over `layers`, and what is stored, with steps, zero points and branches."""
    mean, size = mixed.average(model, among=layers), bits.stored(model, dense=True)
    values = (mean.weights, mean.inputs, size.per_weight, size.per_value)
    return dict(zip(BITS, values, strict=True))
