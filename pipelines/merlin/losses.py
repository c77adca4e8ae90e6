"""Merlin's loss as its released code computes it (`Merlin_Loss_add`), with an explicit label mask.

L = w_pre L_pre + g(e) w_KD (L_HD + L_RD) + g(e) w_CL L_CL. The first three are sums over missing
rates, the contrastive one is a mean over pairs of rates: averaging one or the other would change
their balance. The released code takes a target for missing where it is 0 after normalisation,
which silently drops genuine values; here the record says what was measured.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def masked_mae(estimate: Tensor, target: Tensor, label: Tensor) -> Tensor:
    """Mean absolute error over recorded targets; 0 where there is none.

    Args:
        estimate, target: (B, Q, N).
        label: (B, Q, N) bool.
    """
    error = (estimate - target).abs().where(label, 0.0)
    return error.sum() / label.sum().clamp(min=1)


def forecast_loss(views: Tensor, target: Tensor, label: Tensor) -> Tensor:
    """L_pre: the sum over views of `masked_mae`; `views` is (V, B, Q, N)."""
    error = (views - target).abs().where(label, 0.0)
    return error.sum() / label.sum().clamp(min=1)


def teacher_loss(views: Tensor, teacher: Tensor) -> Tensor:
    """L_HD or L_RD: the sum over views of the mean squared distance from what the teacher gives.

    Unmasked, so that the teacher also speaks where no target was recorded. (The released code
    masks L_RD where the teacher's forecast is exactly 0, which does not happen.)

    Args:
        views: (V, B, …) hidden representations or forecasts.
        teacher: (B, …) the teacher's, for the complete history.
    """
    return F.mse_loss(views, teacher.expand_as(views)) * len(views)


def decay(epoch: int, full: int) -> float:
    """g(e): the weight of teacher and contrast falls off after the first `full` epochs.

    Args:
        epoch: from 1.

    Returns:
        1 up to epoch `full`, then 1 / (e - full): 1, 1/2, 1/3, …
    """
    return 1.0 if epoch <= full else 1.0 / (epoch - full)
