"""What the shared loop needs to train a separator: its loss at a step, its validation loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipelines.sepprune.data import Speech
from pipelines.sepprune.losses import training_loss, validation_loss

VALIDATION_BATCH = 16


def step_loss(
    speech: Speech, seed: int, batch: int, device: torch.device, drop_easy: bool
) -> Callable[[nn.Module, int], Tensor]:
    """Negative SNR on the training mixtures of a step, a pure function of (seed, step)."""

    def loss(model: nn.Module, step: int) -> Tensor:
        mix, sources = speech.batch(seed, step, batch)
        return training_loss(model(mix.to(device)), sources.to(device), drop_easy)

    return loss


def valid_loss(speech: Speech, device: torch.device) -> Callable[[nn.Module], float]:
    """Mean negative SI-SDR (dB) over the fixed validation mixtures."""
    _, mixes, sources = speech.fixed("valid")

    def loss(model: nn.Module) -> float:
        total = 0.0
        for mix, source in zip(
            mixes.split(VALIDATION_BATCH), sources.split(VALIDATION_BATCH), strict=True
        ):
            total += float(validation_loss(model(mix.to(device)), source.to(device))) * len(mix)
        return total / len(mixes)

    return loss
