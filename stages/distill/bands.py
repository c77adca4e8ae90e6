"""Low and high spatial frequencies of maps on a periodic grid.

A wavenumber is a number of waves per width of the map, so that one cutoff means the same on every
grid. The low band holds the modes with |k| <= cutoff, the constant among them; the high band holds
the rest. The two are orthogonal and complete: u = low + high, |u|² = |low|² + |high|² (Plancherel).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

CHUNK = 64
"""Maps that are summed at a time; bounds the memory alone."""


def radius(height: int, width: int) -> Tensor:
    """|k| of every mode of `torch.fft.rfft2`: (height, width // 2 + 1)."""
    rows = torch.fft.fftfreq(height, 1 / height)
    columns = torch.fft.rfftfreq(width, 1 / width)
    return torch.hypot(rows[:, None], columns[None])


def split(maps: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """The low and the high band of maps (..., H, W), each of the same shape; low + high = maps."""
    height, width = maps.shape[-2:]
    keep = (radius(height, width) <= cutoff).to(maps.device)
    low = torch.fft.irfft2(torch.fft.rfft2(maps) * keep, s=(height, width))
    return low, maps - low


def low_basis(height: int, width: int, cutoff: float, device: torch.device | None = None) -> Tensor:
    """An orthonormal basis of the low band: (H·W, n), n the number of its real modes.

    |low band of u|² = |uᵀ basis|², which is a small matrix product: for training it is cheaper than
    a Fourier transform there and back.
    """
    return _low_basis(height, width, float(cutoff), str(device or "cpu"))


@lru_cache(maxsize=32)
def _low_basis(height: int, width: int, cutoff: float, device: str) -> Tensor:
    rows = torch.arange(height, dtype=torch.float64) / height
    columns = torch.arange(width, dtype=torch.float64) / width
    found = []
    # One of each pair ±k: a cosine and a sine; where k and -k are one mode, a cosine alone.
    for ky in range(height // 2 - height + 1, height // 2 + 1):
        for kx in range(width // 2 + 1):
            lonely_x, lonely_y = 2 * kx % width == 0, 2 * ky % height == 0
            if math.hypot(ky, kx) > cutoff or (lonely_x and ky < 0):
                continue
            phase = 2 * math.pi * (ky * rows[:, None] + kx * columns[None])
            found.append(torch.cos(phase).flatten())
            if not (lonely_x and lonely_y):
                found.append(torch.sin(phase).flatten())
    basis = torch.stack(found, 1)
    return (basis / basis.norm(dim=0)).to(torch.float32).contiguous().to(device)


def energies(maps: Tensor, cutoff: float) -> tuple[float, float]:
    """Mean square of the low and of the high band per entry of maps (N, ..., H, W).

    Summed in double precision; together they are the mean square of the maps.
    """
    low = high = 0.0
    for part in maps.split(CHUNK):
        parts = split(part.double(), cutoff)
        low, high = (
            total + float(band.square().sum())
            for total, band in zip((low, high), parts, strict=True)
        )
    return low / maps.numel(), high / maps.numel()


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring maps (..., H, W) to another grid by cutting or padding their Fourier modes.

    A map that is made of modes below both grids' Nyquist wavenumbers keeps its values wherever the
    grids share a point. What only the finer grid can hold is cut, or zero; so is the Nyquist mode
    of the coarser grid, whose phase it does not know. Nearest or linear interpolation would add
    high frequencies that neither map has.

    Args:
        maps: (..., H, W).
        size: height and width of the result.

    Returns:
        (..., *size); `maps` itself where the size is the same.
    """
    height, width = maps.shape[-2:]
    if (height, width) == tuple(size):
        return maps
    modes = torch.fft.rfft2(maps, norm="forward")
    rows, columns = _below(height, size[0]), _below(width, size[1])
    left = modes[..., : columns + 1]
    shape = (*maps.shape[:-2], size[0] - 2 * rows - 1, columns + 1)
    gap = left.new_zeros(shape)
    parts = [left[..., : rows + 1, :], gap]
    if rows:  # negative wavenumbers stand at the end
        parts.append(left[..., -rows:, :])
    kept = torch.cat(parts, -2)
    return torch.fft.irfft2(kept, s=size, norm="forward")


def _below(one: int, other: int) -> int:
    """The largest wavenumber below the Nyquist wavenumbers of both grids."""
    return (min(one, other) - 1) // 2


def spectrum(maps: Tensor) -> Tensor:
    """Mean energy of maps (..., H, W) by whole wavenumber: (K,) in double precision.

    A mode belongs to the nearest whole |k|; the sum is the mean square of the maps.
    """
    height, width = maps.shape[-2:]
    power = torch.fft.rfft2(maps.double(), norm="forward").abs().square()
    twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)  # k and -k, stored once
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    mean = (power * twice.to(power.device)).flatten(0, -3).mean(0).cpu()
    shells = radius(height, width).round().long()
    return torch.zeros(int(shells.max()) + 1, dtype=torch.float64).index_add(
        0, shells.flatten(), mean.flatten()
    )
