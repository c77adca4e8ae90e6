"""Two-dimensional turbulence: the vorticity form of Navier-Stokes on the unit torus.

    w_t + u · grad w = nu Lap w + f,   u = (psi_y, -psi_x),   -Lap psi = w

with f = A (sin 2π(x+y) + cos 2π(x+y)) and w at time 0 drawn from N(0, tau^(2 alpha - 2)
(-Lap + tau²)^-alpha), as in the recipe of the Fourier neural operator, from which the paper's own
file comes [code: FNO, ns_2d.py and random_fields.py]. x runs along the rows.

What differs from that recipe. Time: it takes explicit Euler for advection, which at these
viscosities and any affordable step grows without bound (a test shows it); "ab2" is Adams-Bashforth
of second order with the same Crank-Nicolson for diffusion. Space: it simulates on 256² and keeps
every fourth point; here the grid is a parameter and Fourier modes are cut. Dealiasing: it drops
|k| > N/3 from the advection alone; here the field never holds them, so that products are exact.

A spectrum is `torch.fft.rfft2(w, norm="forward")`: its entries are amplitudes, the same on every
grid that can hold them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from stages.core import params as core
from stages.core.errors import UserError
from stages.core.seeding import seed_of

TWO_PI = 2 * math.pi


class Initial(core.Params):
    """Vorticity at time 0: `tau` is an inverse length, `alpha` the smoothness."""

    alpha: float = Field(gt=1)
    tau: float = Field(gt=0)


class Recipe(core.Params):
    """All that a trajectory depends on, but for its seed. Lengths in widths of the torus.

    Attributes:
        viscosity: nu.
        forcing: A.
        initial: the random field at time 0.
        grid: points per side while simulating.
        size: points per side of what is kept; Fourier modes above its Nyquist are cut.
        scheme: of advection and forcing; diffusion is Crank-Nicolson with both.
        step: of time.
        interval: of time between kept frames; the first is one interval after the start.
        frames: kept.
        precision: while simulating; what is kept is float32.
    """

    viscosity: float = Field(gt=0)
    forcing: float = Field(ge=0)
    initial: Initial
    grid: int = Field(ge=8, le=2048, multiple_of=2)
    size: int = Field(ge=8, le=2048, multiple_of=2)
    scheme: Literal["ab2", "euler"]
    step: float = Field(gt=0)
    interval: float = Field(gt=0)
    frames: int = Field(ge=1)
    precision: Literal["float32", "float64"]

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if self.size > self.grid:
            raise ValueError(f"size {self.size} is finer than the grid {self.grid} simulated on")
        if abs(self.interval / self.step - self.stride) > 1e-6 * self.stride or self.stride < 1:
            raise ValueError(f"interval {self.interval} is no multiple of the step {self.step}")
        return self

    @property
    def stride(self) -> int:
        """Steps from frame to frame."""
        return round(self.interval / self.step)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.precision == "float32" else torch.float64


class Torus:
    """Derivatives, products and diagnostics on a grid of size², 2/3-dealiased.

    Attributes:
        kx, ky: wavenumbers of a spectrum's rows (size, 1) and columns (1, size // 2 + 1).
        mask: 1 for the modes that a field holds, those with |kx|, |ky| < size / 3: then no product
            of two fields folds back onto a mode that is held.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.size = size
        self.kx = torch.fft.fftfreq(size, 1 / size, dtype=dtype, device=device)[:, None]
        self.ky = torch.fft.rfftfreq(size, 1 / size, dtype=dtype, device=device)[None]
        held = (size - 1) // 3
        self.mask = ((self.kx.abs() <= held) & (self.ky <= held)).to(dtype)
        self.laplacian = -(TWO_PI**2) * (self.kx**2 + self.ky**2)
        self.inverse = torch.where(self.laplacian < 0, -1 / self.laplacian.clamp(max=-1), 0.0)
        """Of -Lap; 0 for the mean, which a vorticity has not got."""
        flow = torch.stack([TWO_PI * self.ky * self.inverse, -TWO_PI * self.kx * self.inverse])
        self._flow = 1j * flow * self.mask
        # u · grad w = (d_xx - d_yy)(uv) + d_xy(v² - u²): four transforms where the plain form has
        # five [Basdevant 1983].
        second = torch.stack([self.kx**2 - self.ky**2, self.kx * self.ky])
        self._second = -(TWO_PI**2) * second * self.mask

    def field(self, spectrum: Tensor) -> Tensor:
        """Values (..., size, size) of a spectrum."""
        return torch.fft.irfft2(spectrum, s=(self.size, self.size), norm="forward")

    def spectrum(self, field: Tensor) -> Tensor:
        """Spectrum (..., size, size // 2 + 1) of values, what is not held cut off."""
        return torch.fft.rfft2(field, norm="forward") * self.mask

    def advection(self, w: Tensor) -> Tensor:
        """Spectrum of u · grad w, for a spectrum w (B, size, size // 2 + 1)."""
        u, v = self.field(w[:, None] * self._flow).unbind(1)
        products = torch.stack([u * v, (v - u) * (v + u)], 1)
        return (torch.fft.rfft2(products, norm="forward") * self._second).sum(1)

    def forcing(self, amplitude: float) -> Tensor:
        """Spectrum of A (sin 2π(x+y) + cos 2π(x+y))."""
        spectrum = torch.zeros_like(self._flow[0])
        spectrum[1, 1] = amplitude * complex(0.5, -0.5)
        return spectrum

    def mean_product(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean over the torus of the product of two fields, from their spectra: (...)."""
        twice = torch.full_like(self.ky, 2.0)  # columns of which the mirror image is not stored
        twice[:, 0] = 1.0
        twice[:, -1] = 1.0
        return ((a.conj() * b).real * twice).sum((-2, -1))

    def energy(self, w: Tensor) -> Tensor:
        """Kinetic energy, the mean of |u|² / 2: (B,)."""
        return 0.5 * self.mean_product(w * self.inverse, w)

    def enstrophy(self, w: Tensor) -> Tensor:
        """The mean of w² / 2: (B,)."""
        return 0.5 * self.mean_product(w, w)


def regrid(spectrum: Tensor, size: int) -> Tensor:
    """The same field on a grid of size²: modes are cut, or padded with zeros.

    Modes at the coarser grid's Nyquist wavenumber are cut: a grid does not know their phase.
    """
    half = min(spectrum.shape[-2], size) // 2
    made = spectrum.new_zeros(*spectrum.shape[:-2], size, size // 2 + 1)
    made[..., :half, :half] = spectrum[..., :half, :half]
    made[..., 1 - half :, :half] = spectrum[..., 1 - half :, :half]
    return made


def initial(recipe: Recipe, seeds: list[int]) -> Tensor:
    """Spectra of random fields at time 0, (len(seeds), grid, grid // 2 + 1), double precision.

    Each depends on its own seed and the grid alone, not on its neighbours or the precision.
    """
    torus = Torus(recipe.grid, torch.float64)
    held = (recipe.grid - 1) // 3
    side = 2 * held + 1
    given = recipe.initial
    amplitude = given.tau ** (given.alpha - 1) * (given.tau**2 - torus.laplacian) ** (
        -given.alpha / 2
    )
    made = torch.zeros(len(seeds), recipe.grid, recipe.grid // 2 + 1, dtype=torch.complex128)
    for i, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        parts = torch.randn(2, side, side, generator=generator, dtype=torch.float64)
        noise = torch.complex(parts[0], parts[1]) / math.sqrt(2)
        # Rows and columns run over -held … held; a real field has w(-k) = conj w(k).
        noise = (noise + noise.flip(0, 1).conj()) / math.sqrt(2)
        made[i, : held + 1, : held + 1] = noise[held:, held:]
        made[i, -held:, : held + 1] = noise[:held, held:]
    made[:, 0, 0] = 0
    return made * amplitude


def march(
    torus: Torus, w: Tensor, viscosity: float, forcing: float, step: float, scheme: str
) -> Iterator[Tensor]:
    """Spectra (B, size, size // 2 + 1) after one step, two steps, and so on, without end.

    Crank-Nicolson for diffusion; "ab2": advection 3/2 N(n) - 1/2 N(n-1), after a first step by
    Euler; "euler": N(n).
    """
    half = -0.5 * step * viscosity * torus.laplacian
    # What is added to w, not what w is multiplied by: (1 - half) / (1 + half) is so near to 1 that
    # single precision rounds it, and thousands of steps would turn that into a wrong viscosity.
    decay, gain = -2 * half / (1 + half), -step / (1 + half)
    push = -gain * torus.forcing(forcing)
    before: Tensor | None = None
    while True:
        now = torus.advection(w)
        slope = now
        if scheme == "ab2":
            slope = now if before is None else 1.5 * now - 0.5 * before
            before = now
        w = w + (decay * w + gain * slope + push)
        yield w


def solve(recipe: Recipe, start: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Simulate from spectra at time 0.

    Args:
        start: (B, n, n // 2 + 1), on any grid.

    Returns:
        Vorticity (B, frames, size, size), float32; not finite from where the scheme breaks down.
    """
    torus = Torus(recipe.grid, recipe.dtype, device)
    w = regrid(start, recipe.grid).to(device, torus._flow.dtype) * torus.mask
    out = torch.empty(len(start), recipe.frames, recipe.size, recipe.size)
    steps = march(torus, w, recipe.viscosity, recipe.forcing, recipe.step, recipe.scheme)
    for frame in range(recipe.frames):
        for _ in range(recipe.stride):
            w = next(steps)
        kept = regrid(w, recipe.size)
        out[:, frame] = torch.fft.irfft2(kept, s=(recipe.size,) * 2, norm="forward").cpu()
    return out


def trajectories(
    recipe: Recipe, seed: int, split: str, first: int, count: int, device: torch.device | str
) -> Tensor:
    """Trajectories number `first` … of a split: (count, frames, size, size), float32.

    Raises:
        UserError: one is not finite; the message says which and from when.
    """
    seeds = [seed_of("vorticity", seed, split, first + i) for i in range(count)]
    made = solve(recipe, initial(recipe, seeds), device)
    bad = (~made.isfinite()).flatten(2).any(2).nonzero()
    if len(bad):
        which, frame = bad[0].tolist()
        raise UserError(
            f"{split} trajectory {first + which} is not finite at time "
            f"{(frame + 1) * recipe.interval:g}: lower 'sdkd.prepare.recipe.step' in params.yaml"
            + ("" if recipe.scheme == "ab2" else ", or take the scheme ab2")
        )
    return made
