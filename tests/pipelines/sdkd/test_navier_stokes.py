"""The solver against exact solutions, balances and its own limits."""

import itertools
import math

import pytest
import torch
from pydantic import ValidationError

from pipelines.sdkd.navier_stokes import (
    Recipe,
    Torus,
    initial,
    march,
    regrid,
    solve,
    trajectories,
)
from stages.core.errors import UserError

VALUES = {
    "viscosity": 1e-3,
    "forcing": 0.1,
    "initial": {"alpha": 2.5, "tau": 7.0},
    "grid": 32,
    "size": 32,
    "scheme": "ab2",
    "step": 0.01,
    "interval": 0.5,
    "frames": 4,
    "precision": "float64",
}
DOUBLE = torch.float64


def recipe(**changes):
    return Recipe.model_validate(VALUES | changes)


def grid(size):
    points = torch.arange(size, dtype=DOUBLE) / size
    return torch.meshgrid(points, points, indexing="ij")


def after(torus, w, steps, **how):
    given = {"viscosity": 1e-3, "forcing": 0.0, "step": 0.01, "scheme": "ab2"} | how
    return next(itertools.islice(march(torus, w, **given), steps - 1, None))


def distance(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture
def turbulent():
    """Spectra of two random fields with all modes that a 32 x 32 grid holds."""
    generator = torch.Generator().manual_seed(0)
    torus = Torus(32, DOUBLE)
    field = torch.randn(2, 32, 32, generator=generator, dtype=DOUBLE)
    w = torus.spectrum(field)
    w[:, 0, 0] = 0
    return torus, w


# ------------------------------------------------------------------------- exact solutions


@pytest.mark.parametrize("scheme", ["ab2", "euler"])
def test_taylor_green_decays_as_it_must(scheme):
    x, y = grid(32)
    start = 2 * torch.sin(4 * math.pi * x) * torch.sin(4 * math.pi * y)
    torus = Torus(32, DOUBLE)
    w = torus.field(after(torus, torus.spectrum(start[None]), 200, scheme=scheme))[0]
    exact = math.exp(-1e-3 * 2 * (4 * math.pi) ** 2 * 2.0)
    assert exact < 0.6
    torch.testing.assert_close(w, start * exact, rtol=2e-6, atol=1e-9)


def test_any_field_of_one_wavelength_keeps_its_shape():
    """Modes of equal |k| do not advect one another: all shrink by Crank-Nicolson's factor."""
    x, y = grid(32)
    start = torch.zeros_like(x)
    for i, (kx, ky) in enumerate([(5, 0), (3, 4), (4, -3), (0, 5)]):
        start += math.sqrt(i + 1) * torch.cos(2 * math.pi * (kx * x + ky * y) + i)
    torus = Torus(32, DOUBLE)
    w = torus.field(after(torus, torus.spectrum(start[None]), 50))[0]
    half = 0.5 * 0.01 * 1e-3 * 4 * math.pi**2 * 25
    torch.testing.assert_close(w, start * ((1 - half) / (1 + half)) ** 50, rtol=0, atol=1e-12)


def test_a_steady_forcing_alone_drives_towards_its_balance():
    """Without other modes the forced one settles where diffusion takes what forcing gives."""
    x, y = grid(16)
    torus = Torus(16, DOUBLE)
    nothing = torch.zeros(1, 16, 9, dtype=torch.complex128)
    w = torus.field(after(torus, nothing, 4000, viscosity=0.05, forcing=0.1, step=0.01))[0]
    phase = 2 * math.pi * (x + y)
    balance = 0.1 * (phase.sin() + phase.cos()) / (0.05 * 8 * math.pi**2)
    torch.testing.assert_close(w, balance, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------- the advection


def test_advection_is_u_grad_w(turbulent):
    """Against the plain form, taken on a grid so fine that no product folds back."""
    torus, w = turbulent
    fine = Torus(128, DOUBLE)
    wide = regrid(w, 128)
    kx, ky = 2j * math.pi * fine.kx, 2j * math.pi * fine.ky
    psi = wide * fine.inverse
    u, v, w_x, w_y = (fine.field(s) for s in (ky * psi, -kx * psi, kx * wide, ky * wide))
    plain = regrid(torch.fft.rfft2(u * w_x + v * w_y, norm="forward"), 32) * torus.mask
    torch.testing.assert_close(torus.advection(w), plain, rtol=0, atol=1e-13)


def test_the_flow_has_the_vorticity_it_is_made_from(turbulent):
    torus, w = turbulent
    u, v = (w[:, None] * torus._flow).unbind(1)
    curl = 2j * math.pi * (torus.kx * v - torus.ky * u)
    divergence = torus.kx * u + torus.ky * v
    torch.testing.assert_close(curl, w)
    assert float(divergence.abs().max()) < 1e-15


def test_advection_keeps_energy_and_enstrophy(turbulent):
    torus, w = turbulent
    advection = torus.advection(w)
    size = float((torus.mean_product(advection, advection) * torus.mean_product(w, w)).sqrt().max())
    assert float(torus.mean_product(w, advection).abs().max()) < 1e-13 * size
    assert float(torus.mean_product(w * torus.inverse, advection).abs().max()) < 1e-13 * size


def test_energy_and_enstrophy_are_those_of_the_flow(turbulent):
    torus, w = turbulent
    flow = torus.field(w[:, None] * torus._flow)
    energy = 0.5 * flow.square().sum(1).mean((1, 2))
    torch.testing.assert_close(torus.energy(w), energy)
    torch.testing.assert_close(torus.enstrophy(w), 0.5 * torus.field(w).square().mean((1, 2)))


def test_energy_and_enstrophy_balance():
    """dE/dt = -2 nu Z + <psi f>, and dZ/dt = -nu <|grad w|²> + <w f>, along a turbulent run."""
    given = recipe(viscosity=1e-3, forcing=0.3)
    torus, step = Torus(32, DOUBLE), 1e-4
    w = initial(given, [1]) * 5
    run = march(torus, w, 1e-3, 0.3, step, "ab2")
    before, now, then = (next(itertools.islice(run, n, None)) for n in (400, 0, 0))
    force = torus.forcing(0.3)[None]
    energy = (torus.energy(then) - torus.energy(before)) / (2 * step)
    gain = torus.mean_product(now * torus.inverse, force) - 2e-3 * torus.enstrophy(now)
    torch.testing.assert_close(energy, gain, rtol=1e-6, atol=0)
    enstrophy = (torus.enstrophy(then) - torus.enstrophy(before)) / (2 * step)
    gradient = torus.mean_product(now, -torus.laplacian * now)
    gain = torus.mean_product(now, force) - 1e-3 * gradient
    torch.testing.assert_close(enstrophy, gain, rtol=1e-6, atol=0)


# ------------------------------------------------------------------------- schemes


def test_orders_of_convergence():
    """Halving the step divides the error by four (AB2), by two (Euler)."""
    torus = Torus(32, DOUBLE)
    w = initial(recipe(), [3]) * 3
    exact = after(torus, w, 800, step=1 / 800, forcing=0.1)
    for scheme, factor in (("ab2", 4.0), ("euler", 2.0)):
        coarse, fine = (
            distance(after(torus, w, n, step=1 / n, forcing=0.1, scheme=scheme), exact)
            for n in (25, 50)
        )
        assert coarse / fine == pytest.approx(factor, rel=0.1)


def test_the_usual_scheme_breaks_down_at_low_viscosity():
    """Explicit Euler makes advected waves grow without bound; Adams-Bashforth does not."""
    low = recipe(viscosity=1e-5, grid=64, step=0.01, interval=5.0, precision="float32")
    start = initial(low, [0])
    euler = solve(low.model_copy(update={"scheme": "euler"}), start)
    assert bool(euler[:, 0].isfinite().all()) and not bool(euler[:, 3].isfinite().all())
    ours = solve(low.model_copy(update={"step": 0.005}), start)
    assert bool(ours.isfinite().all()) and float(ours.std()) < 3
    finer = solve(low.model_copy(update={"step": 0.0025}), start)
    assert distance(ours[:, 1], finer[:, 1]) < 1e-3
    assert distance(ours[:, 3], finer[:, 3]) < 2e-2


def test_a_run_that_breaks_down_says_so():
    coarse = recipe(viscosity=1e-5, step=0.25, interval=5.0, frames=20, forcing=1.0)
    with pytest.raises(UserError, match=r"valid trajectory 7 is not finite at time \d+: lower"):
        trajectories(coarse, 0, "valid", 7, 1, "cpu")


def test_single_precision_is_enough_and_shows():
    """The factor of diffusion is next to 1: multiplied by, single precision would round it."""
    long = recipe(precision="float64", step=0.005, interval=5.0, frames=2)
    start = initial(long, [0])
    double = solve(long, start)
    single = solve(long.model_copy(update={"precision": "float32"}), start)
    assert 1e-8 < distance(single, double) < 3e-6


def test_a_grid_that_holds_the_flow_gives_what_a_finer_one_does():
    coarse = recipe(viscosity=1e-2, grid=32, size=16)
    start = initial(coarse, [0])
    fine = solve(coarse.model_copy(update={"grid": 64}), start)
    assert distance(solve(coarse, start), fine) < 1e-3


# ------------------------------------------------------------------------- fields and grids


def test_the_field_at_time_0_has_the_spectrum_of_the_recipe():
    given = recipe(grid=16, size=16)
    drawn = initial(given, list(range(3000)))
    torus = Torus(16, DOUBLE)
    power = drawn.abs().square().mean(0)
    expected = 7.0**3 * (7.0**2 - torus.laplacian) ** -2.5 * torus.mask
    expected[0, 0] = 0
    assert float(power[0, 0]) == 0  # no mean
    held = expected > 0
    ratio = power[held] / expected[held]
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.01)
    assert float((ratio - 1).abs().max()) < 0.15
    assert float(power[~held].max()) == 0


def test_the_field_at_time_0_is_real():
    drawn = initial(recipe(), [0, 1])
    torch.testing.assert_close(
        torch.fft.rfft2(torch.fft.irfft2(drawn, s=(32, 32), norm="forward"), norm="forward"), drawn
    )


def test_forcing_is_the_recipes():
    x, y = grid(16)
    phase = 2 * math.pi * (x + y)
    torus = Torus(16, DOUBLE)
    torch.testing.assert_close(torus.field(torus.forcing(0.1)), 0.1 * (phase.sin() + phase.cos()))


def test_regrid_keeps_the_values_at_shared_points():
    spectrum = initial(recipe(grid=16, size=16), [5])
    coarse = torch.fft.irfft2(spectrum, s=(16, 16), norm="forward")
    fine = torch.fft.irfft2(regrid(spectrum, 64), s=(64, 64), norm="forward")
    torch.testing.assert_close(fine[:, ::4, ::4], coarse)


def test_regrid_cuts_what_the_coarse_grid_cannot_hold():
    x, y = grid(32)
    kept = torch.cos(2 * math.pi * (3 * x - 2 * y))
    lost = torch.cos(2 * math.pi * 9 * x) + torch.sin(2 * math.pi * (8 * y + x))
    spectrum = torch.fft.rfft2(kept + lost, norm="forward")
    small = torch.fft.irfft2(regrid(spectrum, 16), s=(16, 16), norm="forward")
    torch.testing.assert_close(small, kept[::2, ::2])


def test_a_trajectory_does_not_depend_on_its_neighbours():
    given = recipe(precision="float32", grid=32)
    many = trajectories(given, 0, "train", 3, 4, "cpu")
    alone = trajectories(given, 0, "train", 5, 1, "cpu")
    assert torch.equal(many[2], alone[0])
    assert many.dtype == torch.float32 and many.shape == (4, 4, 32, 32)


def test_splits_and_seeds_do_not_share_a_trajectory():
    given = recipe(frames=1, precision="float32")
    made = [
        trajectories(given, seed, split, 0, 2, "cpu")
        for seed, split in ((0, "train"), (0, "valid"), (0, "test"), (1, "train"))
    ]
    flat = torch.cat(made).flatten(1)
    apart = torch.cdist(flat, flat) + torch.eye(8) * 1e3
    assert float(apart.min()) > 0.1 * float(flat.norm(dim=1).mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 64}, "finer than the grid"),
        ({"interval": 0.515}, "no multiple of the step"),
        ({"step": 1.0}, "no multiple of the step"),
        ({"viscosity": 0.0}, "greater than 0"),
        ({"scheme": "heun"}, "'ab2' or 'euler'"),
        ({"grid": 33}, "multiple of 2"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        recipe(**change)
