"""Frequency bands and the Fourier resize, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stages.distill.bands import energies, low_basis, radius, resize, spectrum, split

GRIDS = [(8, 8), (16, 8), (7, 9), (6, 5)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wave(height: int, width: int, ky: int, kx: int, phase: float = 0.3) -> Tensor:
    y = torch.arange(height, dtype=torch.float64)[:, None] / height
    x = torch.arange(width, dtype=torch.float64)[None] / width
    return torch.cos(2 * math.pi * (ky * y + kx * x) + phase)


@pytest.mark.parametrize("size", GRIDS)
@pytest.mark.parametrize("cutoff", [0.0, 1.0, 2.3, 3.0, 100.0])
def test_bands_are_orthogonal_and_complete(size: tuple[int, int], cutoff: float) -> None:
    maps = noise(2, 3, *size)
    low, high = split(maps, cutoff)
    torch.testing.assert_close(low + high, maps)
    assert float((low * high).sum().abs()) < 1e-9 * float(maps.square().sum())
    torch.testing.assert_close(split(low, cutoff)[0], low)


def test_a_wave_falls_into_the_band_of_its_wavenumber() -> None:
    for ky, kx in ((0, 0), (1, 2), (-3, 1), (4, 0), (3, 3), (8, 2)):
        u = wave(16, 16, ky, kx)
        low, high = split(u, 3.5)
        inside, outside = (low, high) if math.hypot(ky, kx) <= 3.5 else (high, low)
        torch.testing.assert_close(inside, u)
        assert float(outside.abs().max()) < 1e-12


@pytest.mark.parametrize("size", GRIDS)
@pytest.mark.parametrize("cutoff", [0.0, 1.0, 2.3, 3.0, 4.0, 100.0])
def test_the_basis_spans_the_low_band(size: tuple[int, int], cutoff: float) -> None:
    basis = low_basis(*size, cutoff).double()
    gram = basis.T @ basis
    torch.testing.assert_close(gram, torch.eye(len(gram)).double(), rtol=0, atol=2e-6)
    maps = noise(5, *size)
    low, _ = split(maps, cutoff)
    projected = (maps.flatten(1) @ basis @ basis.T).view_as(maps)
    torch.testing.assert_close(projected, low, rtol=1e-5, atol=2e-6)
    if cutoff == 100.0:
        assert len(gram) == size[0] * size[1]


def test_energies_add_up_and_are_those_of_the_bands() -> None:
    maps = noise(150, 2, 12, 10)  # more than one chunk
    low, high = energies(maps, 2.5)
    bands = split(maps, 2.5)
    assert (low, high) == pytest.approx([float(b.square().mean()) for b in bands], rel=1e-12)
    assert low + high == pytest.approx(float(maps.square().mean()), rel=1e-12)


@pytest.mark.parametrize("size", [(16, 16), (7, 9)])
def test_the_spectrum_sums_to_the_mean_square(size: tuple[int, int]) -> None:
    maps = noise(4, 3, *size)
    shells = spectrum(maps)
    assert float(shells.sum()) == pytest.approx(float(maps.square().mean()), rel=1e-12)
    one = spectrum(wave(*size, 2, 1)[None])
    assert float(one[2]) == pytest.approx(0.5) and float(one.sum()) == pytest.approx(0.5)


@pytest.mark.parametrize("fine, coarse", [((16, 16), (8, 8)), ((12, 10), (7, 5)), ((9, 9), (6, 9))])
def test_trap_9_a_resize_keeps_what_both_grids_can_hold(
    fine: tuple[int, int], coarse: tuple[int, int]
) -> None:
    modes = [(0, 0), (1, 2), (-2, 1), (2, 0)]
    on_fine = sum(wave(*fine, *k) for k in modes)
    on_coarse = sum(wave(*coarse, *k) for k in modes)
    torch.testing.assert_close(resize(on_fine, coarse), on_coarse)
    torch.testing.assert_close(resize(on_coarse, fine), on_fine)


def test_trap_9_a_resize_makes_no_high_frequencies() -> None:
    u = noise(3, 8, 8)
    up = resize(u, (32, 32))
    assert float(split(up, math.hypot(3, 3))[1].abs().max()) < 1e-12
    nearest = u.repeat_interleave(4, -1).repeat_interleave(4, -2)
    spurious = split(nearest, math.hypot(3, 3))[1].square().mean() / nearest.square().mean()
    assert float(spurious) > 0.05
    # Down: what the coarse grid cannot hold is gone, not folded back.
    assert float(resize(wave(32, 32, 7, 0), (8, 8)).abs().max()) < 1e-12


def test_a_resize_to_the_same_grid_does_nothing_and_a_gradient_passes() -> None:
    u = noise(2, 8, 8).requires_grad_()
    assert resize(u, (8, 8)) is u
    small = noise(1, 2, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: resize(v, (8, 6)), (small,))


def test_the_radius_counts_waves_per_width() -> None:
    r = radius(8, 6)
    assert r.shape == (8, 4)
    assert float(r[0, 3]) == 3 and float(r[7, 0]) == 1 and float(r[4, 0]) == 4
