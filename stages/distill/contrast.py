"""Contrastive loss between views of the same samples (NT-Xent), and what it is made of.

A sample's code in one view is to be nearer to its own code in another view than to the codes of
all other samples of the batch in either view.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(
    first: Tensor, second: Tensor, temperature: float, rivals: Tensor | None = None
) -> Tensor:
    """Normalised temperature-scaled cross entropy of one pair of views.

    Both views' codes are scaled to length 1 and stacked to 2B; each of the 2B rows has to find its
    other view among the 2B - 1 other rows by its dot products over `temperature`.

    Args:
        first, second: (B, K), row i of both from sample i.
        rivals: (B, B) bool, whether sample j counts against sample i; all do where None. A sample
            never counts against itself.

    Returns:
        A scalar: log(2B - 1) where all codes are alike, whatever the temperature.
    """
    return multi_view(torch.stack([first, second]), temperature, rivals)


def multi_view(codes: Tensor, temperature: float, rivals: Tensor | None = None) -> Tensor:
    """Mean of `nt_xent` over all pairs of views, all pairs in one go.

    Args:
        codes: (V, B, K), at least two views.
        rivals: as in `nt_xent`.
    """
    views, size, _ = codes.shape
    units = F.normalize(codes, dim=-1)
    pairs = torch.tensor(list(combinations(range(views), 2)), device=codes.device)
    stacked = units[pairs].flatten(1, 2)
    logits = stacked @ stacked.mT / temperature
    rows = torch.arange(2 * size, device=codes.device)
    own = rows.roll(size)
    barred = torch.eye(2 * size, dtype=torch.bool, device=codes.device)
    if rivals is not None:
        barred |= ~rivals.repeat(2, 2)
        barred[rows, own] = False
    # Every pair has as many rows, so the mean over rows is the mean over pairs.
    logits = logits.masked_fill(barred, -torch.inf).flatten(0, 1)
    return F.cross_entropy(logits, own.repeat(len(pairs)))


def apart(places: Tensor, distance: int) -> Tensor:
    """Which samples of a batch lie so far from each other that they may count as different.

    Windows cut from one series at places nearer than their length share a part of it; as negatives
    they would teach that like is unlike.

    Args:
        places: (B,) where each window starts.
        distance: the least distance of two windows that count.

    Returns:
        (B, B) bool, for `nt_xent`'s `rivals`.
    """
    return (places[:, None] - places[None, :]).abs() >= distance


def similarities(codes: Sequence[Tensor]) -> tuple[float, float]:
    """Mean cosine, over pairs of views, of a sample with itself and with the other samples.

    The loss alone misleads: with temperature 1 its whole range is narrow, and a value near
    log(2B - 1) does not say that nothing was learnt.

    Args:
        codes: a (B, K) for each of at least two views, B at least 2.

    Returns:
        (same sample in two views, different samples in two views).
    """
    views = [F.normalize(code, dim=1) for code in codes]
    tables = torch.stack([a @ b.T for a, b in combinations(views, 2)])
    size = tables.shape[-1]
    same = tables.diagonal(dim1=1, dim2=2).mean()
    different = (tables.mean() * size - same) / (size - 1)
    return float(same), float(different)
