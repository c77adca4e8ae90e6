"""Field metrics against closed forms, identities and other people's code."""

import math

import numpy as np
import pytest
import torch

from stages.distill.bands import split
from stages.evaluate.fields import (
    LIMIT_DB,
    Scale,
    band_name,
    damping,
    energy,
    persistence,
    psnr,
    scores,
    ssim,
)

SCALE = Scale(low=-4.0, high=4.0, cutoff=3.0, edges=(0.0, 2.0, 5.0, 20.0))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pair():
    """A truth and a forecast of it, (N, T, C, H, W)."""
    truth = random(3, 4, 2, 16, 12)
    return truth + 0.3 * random(3, 4, 2, 16, 12, seed=1), truth


def wave(kx, ky, height=16, width=16):
    y = torch.arange(height, dtype=torch.float64)[:, None] / height
    x = torch.arange(width, dtype=torch.float64)[None] / width
    return torch.cos(2 * math.pi * (kx * x + ky * y))


def test_mse_and_mae_are_means_over_points_in_raw_units(pair):
    forecast, truth = pair
    found = scores(forecast, truth, SCALE)
    error = (forecast - truth).double().numpy()
    np.testing.assert_allclose(found["mse"].frames, (error**2).mean((2, 3, 4)))
    np.testing.assert_allclose(found["mse"].whole, (error**2).mean((1, 2, 3, 4)))
    np.testing.assert_allclose(found["mae"].frames, np.abs(error).mean((2, 3, 4)))
    scaled = scores(10 * forecast, 10 * truth, SCALE)
    torch.testing.assert_close(scaled["mse"].whole, 100 * found["mse"].whole, rtol=1e-6, atol=0)


def test_many_forecasts_are_scored_as_few_are(pair, monkeypatch):
    from stages.evaluate import fields

    whole = scores(*pair, SCALE)
    monkeypatch.setattr(fields, "AT_ONCE", 2)
    for name, score in scores(*pair, SCALE).items():
        torch.testing.assert_close(score.frames, whole[name].frames, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(score.whole, whole[name].whole, rtol=1e-6, atol=1e-9)


def test_relative_error_over_all_frames_is_one_ratio_of_norms(pair):
    forecast, truth = pair
    found = scores(forecast, truth, SCALE)["relative_l2"]
    error, true = (forecast - truth).double(), truth.double()
    expected = error[1].norm() / true[1].norm()
    torch.testing.assert_close(found.whole[1], expected)
    torch.testing.assert_close(found.frames[2, 3], error[2, 3].norm() / true[2, 3].norm())
    half = scores(0.5 * truth, truth, SCALE)["relative_l2"]
    torch.testing.assert_close(half.whole, torch.full((3,), 0.5, dtype=torch.float64))


def test_bands_add_up_to_the_error(pair):
    """Parseval, on an oblong grid: nothing is lost between the bands or counted twice."""
    found = scores(*pair, SCALE)
    names = [band_name(0, 2), band_name(2, 5), band_name(5, 20)]
    assert names == ["mse_band_0_2", "mse_band_2_5", "mse_band_5_20"]
    for parts in (names, ["mse_low", "mse_high"]):
        total = sum(found[name].frames for name in parts)
        torch.testing.assert_close(total, found["mse"].frames, rtol=1e-12, atol=0)


def test_the_low_band_is_the_distillation_losses(pair):
    forecast, truth = pair
    low, high = split((forecast - truth).double(), SCALE.cutoff)
    found = scores(forecast, truth, SCALE)
    torch.testing.assert_close(found["mse_low"].frames, low.square().mean((2, 3, 4)))
    torch.testing.assert_close(found["mse_high"].frames, high.square().mean((2, 3, 4)))


@pytest.mark.parametrize(("kx", "ky", "band"), [(0, 0, 0), (1, -1, 0), (2, 0, 1), (3, 4, 2)])
def test_a_wave_of_error_stands_in_its_band_alone(kx, ky, band):
    truth = random(1, 1, 1, 16, 16)
    found = scores(truth + 0.1 * wave(kx, ky).float(), truth, SCALE)
    edges = list(zip(SCALE.edges, SCALE.edges[1:], strict=False))
    values = [float(found[band_name(lo, hi)].whole) for lo, hi in edges]
    power = 0.01 if kx == ky == 0 else 0.005
    assert values[band] == pytest.approx(power, rel=1e-4)
    assert sum(values) == pytest.approx(power, rel=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 9)])
def test_energy_by_mode_adds_up(size):
    fields = random(2, 3, *size).double()
    torch.testing.assert_close(energy(fields).sum((-2, -1)), fields.square().mean((1, 2, 3)))


def test_bands_that_leave_out_a_mode_are_refused(pair):
    for edges in ((0.0, 5.0, 9.9), (1.0, 20.0)):
        with pytest.raises(ValueError, match=r"must run from 0 to beyond 10.0"):
            scores(*pair, Scale(-4.0, 4.0, 3.0, edges))


def test_psnr_is_the_textbooks():
    assert float(psnr(torch.tensor(0.04), 8.0)) == pytest.approx(10 * math.log10(64 / 0.04))
    assert float(psnr(torch.tensor(0.0), 8.0)) == LIMIT_DB


def test_negative_values_count_in_psnr_and_ssim(pair):
    """Code that clips to [0, 1] or casts to bytes sees no difference where values are negative."""
    forecast, truth = -pair[0].abs(), -pair[1].abs()
    found = scores(forecast, truth, SCALE)
    turned = scores(-forecast, -truth, SCALE)
    torch.testing.assert_close(found["psnr"].whole, turned["psnr"].whole)
    assert float(found["ssim"].whole.max()) < 0.99
    assert 0 < float(found["psnr"].whole.max()) < 60


def test_the_range_is_the_training_sets_not_the_frames(pair):
    wide = scores(*pair, Scale(-8.0, 8.0, 3.0, SCALE.edges))
    found = scores(*pair, SCALE)
    gain = wide["psnr"].frames - found["psnr"].frames
    torch.testing.assert_close(gain, torch.full_like(gain, 20 * math.log10(2)))
    assert bool((wide["ssim"].frames > found["ssim"].frames).all())


def test_ssim_by_hand():
    """Written out with scipy's Gaussian filter."""
    from scipy.ndimage import gaussian_filter

    truth, forecast = random(1, 1, 1, 24, 20).double(), random(1, 1, 1, 24, 20, seed=1).double()
    x, y, span = truth[0, 0, 0].numpy(), forecast[0, 0, 0].numpy(), 6.0

    def mean(values):
        return gaussian_filter(values, 1.5, truncate=5 / 1.5, mode="mirror")

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    ratio = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    expected = ratio.mean()
    assert float(ssim(forecast, truth, span)) == pytest.approx(expected, abs=1e-6)


def test_a_perfect_forecast(pair):
    found = scores(pair[1], pair[1], SCALE)
    for name, score in found.items():
        best = {"ssim": 1.0, "psnr": LIMIT_DB}.get(name, 0.0)
        torch.testing.assert_close(score.whole, torch.full((3,), best, dtype=torch.float64))


def test_what_cannot_be_scored_is_refused(pair):
    forecast, truth = pair
    with pytest.raises(ValueError, match="must both be"):
        scores(forecast[:, :2], truth, SCALE)
    with pytest.raises(ValueError, match="not finite"):
        scores(forecast / 0, truth, SCALE)
    blank = truth.clone()
    blank[1, 2] = 0
    with pytest.raises(ValueError, match="zero everywhere"):
        scores(forecast, blank, SCALE)


def test_persistence_repeats_the_last_frame():
    history = random(2, 3, 1, 4, 4)
    found = persistence(history, 5)
    assert found.shape == (2, 5, 1, 4, 4)
    assert all(torch.equal(found[:, lead], history[:, -1]) for lead in range(5))


def test_damping_is_least_squares():
    history, future = random(6, 2, 1, 4, 4), random(6, 3, 1, 4, 4, seed=1)
    future = future + torch.tensor([0.9, 0.5, 0.1])[None, :, None, None, None] * history[:, -1:]
    factors = damping(history, future)
    last = history[:, -1].double().flatten()
    for lead in range(3):
        best = np.linalg.lstsq(last[:, None], future[:, lead].double().flatten(), rcond=None)[0]
        assert float(factors[lead]) == pytest.approx(float(best[0]))
