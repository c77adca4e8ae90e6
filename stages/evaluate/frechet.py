"""Fréchet distance between two sets of feature vectors, each taken for a Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(a: Tensor, b: Tensor) -> float:
    """|μa − μb|² + tr(Σa + Σb − 2·(Σa·Σb)^½) [Heusel et al. 2017, equation 6], in float64.

    The trace of the root is the sum of the roots of the eigenvalues of Σa^½·Σb·Σa^½, which is
    symmetric. Both sets should be of one size: the distance between two samples of the same
    distribution is above zero, and falls as they grow.

    Args:
        a, b: (N, D), at least two vectors each.

    Raises:
        ValueError: fewer than two vectors, or sets of different D.
    """
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"two sets (N, D) with N ≥ 2, not {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.double(), b.double()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    first, second = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(a.shape[1], -1)
    root = _root(first)
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float((gap + first.trace() + second.trace() - 2 * shared).clamp(min=0))


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
