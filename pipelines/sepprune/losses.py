"""Separation losses and scores: negative SNR and SI-SDR under the best permutation.

Training uses the negative SNR, as the released configurations do (the paper's text says SI-SDR,
which leaves the scale free; SNR fixes it). Validation and the headline metric use SI-SDR.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor

EPS = 1e-8
EASY_DB = 30.0
"""A training mixture separated better than this many dB teaches nothing more and is left out."""

Criterion = Callable[[Tensor, Tensor], Tensor]


def snr(estimate: Tensor, source: Tensor) -> Tensor:
    """Signal-to-noise ratio without rescaling: 10 log10(|s|^2 / |e - s|^2).

    Both signals are made zero-mean first, as in the losses that the released code uses.

    Args:
        estimate: (..., T).
        source: (..., T), broadcast against `estimate`.

    Returns:
        (...) in dB; higher is better.
    """
    estimate, source = _centred(estimate), _centred(source)
    return _decibels(source, estimate - source)


def si_sdr(estimate: Tensor, source: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio, zero-mean.

    10 log10(|a s|^2 / |e - a s|^2) with a = <e, s> / |s|^2.

    Args:
        estimate: (..., T).
        source: (..., T), broadcast against `estimate`.

    Returns:
        (...) in dB; higher is better.
    """
    estimate, source = _centred(estimate), _centred(source)
    dot = (estimate * source).sum(-1, keepdim=True)
    target = dot / (source.square().sum(-1, keepdim=True) + EPS) * source
    return _decibels(target, estimate - target)


def pit(criterion: Criterion, estimate: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """The best assignment of estimates to sources, per mixture.

    Args:
        criterion: `snr` or `si_sdr` (higher is better).
        estimate: (B, C, T).
        source: (B, C, T).

    Returns:
        best: (B,) the mean of `criterion` over sources, in dB, under the best permutation.
        order: (B, C) int64; `order[b, c]` is the estimate that belongs to source c.
    """
    if estimate.shape != source.shape or estimate.ndim != 3:
        raise ValueError(f"expected two (B, C, T), got {estimate.shape} and {source.shape}")
    pairs = criterion(estimate[:, :, None], source[:, None])
    count = source.shape[1]
    orders = torch.tensor(list(permutations(range(count))), device=source.device)
    # scores[b, p] = mean over sources c of pairs[b, orders[p, c], c]
    scores = pairs[:, orders, torch.arange(count, device=source.device)].mean(-1)
    best, index = scores.max(1)
    return best, orders[index]


def training_loss(estimate: Tensor, source: Tensor, drop_easy: bool = True) -> Tensor:
    """Negative SNR under the best permutation, mean over the batch (dB).

    Args:
        estimate: (B, C, T).
        source: (B, C, T).
        drop_easy: leave out mixtures separated better than `EASY_DB`, unless all are (the released
            configurations' `threshold_byloss`).

    Returns:
        A scalar.
    """
    best, _ = pit(snr, estimate, source)
    if drop_easy:
        hard = best < EASY_DB
        keep = hard | ~hard.any()
        return -(best * keep).sum() / keep.sum()
    return -best.mean()


def validation_loss(estimate: Tensor, source: Tensor) -> Tensor:
    """Negative SI-SDR under the best permutation, mean over the batch (dB), nothing dropped."""
    return -pit(si_sdr, estimate, source)[0].mean()


def _centred(signal: Tensor) -> Tensor:
    return signal - signal.mean(-1, keepdim=True)


def _decibels(target: Tensor, noise: Tensor) -> Tensor:
    ratio = target.square().sum(-1) / (noise.square().sum(-1) + EPS)
    return 10 * torch.log10(ratio + EPS)
