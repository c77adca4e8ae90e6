"""How far forecast fields lie from the truth: by frame, by spatial frequency, over all frames.

Fields are (N, T, C, H, W) in raw units: N forecasts of T frames. A metric gives a score per
forecast and frame, (N, T), and one per forecast, (N,). All are means over points, never sums, so
that grids and channels of any number compare. Sums run in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from stages.distill.bands import radius

LIMIT_DB = 120.0
"""A PSNR ends here: a perfect frame would score infinity."""
AT_ONCE = 64
"""Forecasts scored together: of a large test set all would not fit into memory."""


@dataclass(frozen=True)
class Score:
    """One metric of a set of forecasts.

    Attributes:
        frames: (N, T), float64.
        whole: (N,), over all frames.
    """

    frames: Tensor
    whole: Tensor


@dataclass(frozen=True)
class Scale:
    """What metrics need to know beside the fields.

    Attributes:
        low, high: the data's range, from the training set: one for all frames and forecasts, so
            that no forecast picks its own, and signed values are not cut at 0.
        cutoff: largest wavenumber of the low band, in waves per width.
        edges: wavenumbers between the bands, rising from 0; a band holds its lower edge.
    """

    low: float
    high: float
    cutoff: float
    edges: tuple[float, ...]


def scores(forecast: Tensor, truth: Tensor, scale: Scale) -> dict[str, Score]:
    """All metrics of forecasts (N, T, C, H, W).

    mse, mae; relative_l2, |error| / |truth|, over all frames the ratio of the norms over all of
    them; psnr in dB and ssim, over all frames the mean; mse_low and mse_high, which add up to mse,
    and so do the mse_band_<lo>_<hi>.

    Raises:
        ValueError: shapes do not fit, a value is not finite, a true frame is zero everywhere, or
            the bands leave out a mode.
    """
    _check(forecast, truth)
    largest = float(radius(*truth.shape[-2:]).max())
    if scale.edges[0] != 0 or largest >= scale.edges[-1]:
        raise ValueError(
            f"the bands {scale.edges} must run from 0 to beyond {largest:.1f}, the largest "
            "wavenumber of the grid"
        )
    pairs = zip(forecast.split(AT_ONCE), truth.split(AT_ONCE), strict=True)
    parts = [_scores(f, t, scale) for f, t in pairs]
    return {
        name: Score(
            torch.cat([part[name].frames for part in parts]),
            torch.cat([part[name].whole for part in parts]),
        )
        for name in parts[0]
    }


def _scores(forecast: Tensor, truth: Tensor, scale: Scale) -> dict[str, Score]:
    error = forecast.double() - truth.double()
    square = error.square().mean((2, 3, 4))
    power = truth.double().square().mean((2, 3, 4))
    made = {
        "mse": _mean(square),
        "mae": _mean(error.abs().mean((2, 3, 4))),
        "relative_l2": Score((square / power).sqrt(), (square.sum(1) / power.sum(1)).sqrt()),
        "psnr": _mean(psnr(square, scale.high - scale.low)),
        "ssim": _mean(ssim(forecast, truth, scale.high - scale.low)),
    }
    modes = energy(error)
    length = radius(*error.shape[-2:]).double()
    for name, inside in (("low", length <= scale.cutoff), ("high", length > scale.cutoff)):
        made[f"mse_{name}"] = _mean((modes * inside).sum((-2, -1)))
    for lo, hi in pairwise(scale.edges):
        inside = (length >= lo) & (length < hi)
        made[band_name(lo, hi)] = _mean((modes * inside).sum((-2, -1)))
    return made


def band_name(lo: float, hi: float) -> str:
    """What the error between two wavenumbers is called."""
    return f"mse_band_{lo:g}_{hi:g}"


def psnr(mse: Tensor, span: float) -> Tensor:
    """Peak signal-to-noise ratio in dB for a data range `span`, at most `LIMIT_DB`."""
    floor = span**2 * 10 ** (-LIMIT_DB / 10)
    return 10 * torch.log10(span**2 / mse.clamp(min=floor))


def ssim(forecast: Tensor, truth: Tensor, span: float) -> Tensor:
    """Structural similarity of each frame, (N, T), for a data range `span`.

    Wang et al. 2004: a Gaussian window of 11 x 11 points and sigma 1.5, at every point (beyond
    the border the frame is mirrored); channels are averaged.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    count, frames = truth.shape[:2]
    found = structural_similarity_index_measure(
        forecast.flatten(0, 1).float(), truth.flatten(0, 1).float(), data_range=span,
        reduction="none",
    )  # fmt: skip
    assert isinstance(found, Tensor)
    return found.double().view(count, frames)


def energy(fields: Tensor) -> Tensor:
    """Mean square of fields (..., C, H, W) by mode, (..., H, W // 2 + 1); all add up to the mean
    square over points and channels (Parseval)."""
    width = fields.shape[-1]
    modes = torch.fft.rfft2(fields.double(), norm="forward").abs().square().mean(-3)
    twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = 1  # these columns hold both k and -k
    if width % 2 == 0:
        twice[-1] = 1
    return modes * twice


def persistence(history: Tensor, horizon: int) -> Tensor:
    """The last frame of histories (N, T, C, H, W), `horizon` times."""
    return history[:, -1:].expand(-1, horizon, -1, -1, -1)


def damping(history: Tensor, future: Tensor) -> Tensor:
    """For each lead the factor by which the last frame best forecasts: (T', ), least squares.

    Fields must have no mean, and be of the training set.
    """
    last = history[:, -1:].double()
    products = (last * future.double()).sum((0, 2, 3, 4))
    return products / last.square().sum()


def _mean(frames: Tensor) -> Score:
    return Score(frames, frames.mean(1))


def _check(forecast: Tensor, truth: Tensor) -> None:
    if forecast.shape != truth.shape or truth.ndim != 5:
        raise ValueError(
            f"forecast {tuple(forecast.shape)} and truth {tuple(truth.shape)} must both be "
            "(N, T, C, H, W)"
        )
    if not bool(forecast.isfinite().all() and truth.isfinite().all()):
        raise ValueError("a field holds a value that is not finite")
    if bool((truth == 0).all(-1).all(-1).all(-1).any()):
        raise ValueError("a true frame is zero everywhere: no relative error is defined for it")
