"""Separation metrics against closed forms and against the libraries that the field uses."""

import math

import numpy as np
import pytest
import torch

from stages.evaluate.separation import (
    LIMIT_DB,
    best,
    improvement,
    of_mixture,
    sdr_pairs,
    si_sdr_pairs,
)

RATE = 8000


def voices(batch: int = 3, time: int = RATE, seed: int = 0) -> torch.Tensor:
    """Two speech-like sources (B, 2, T): noise through a steep low-pass, slowly modulated."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, 2, time, generator=generator, dtype=torch.float64)
    frequencies = torch.fft.rfftfreq(time, 1 / RATE)
    slope = 1 / (1 + (frequencies / 500) ** 2)
    coloured = torch.fft.irfft(torch.fft.rfft(noise) * slope, time)
    beat = torch.linspace(0, 6 * math.pi, time, dtype=torch.float64)
    return coloured * torch.stack([1.1 + beat.sin(), 1.1 + beat.cos()])


def estimates_of(sources: torch.Tensor, seed: int = 1) -> torch.Tensor:
    """Estimates with leakage from the other source and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(sources.shape, generator=generator, dtype=torch.float64)
    return 0.8 * sources + 0.15 * sources.flip(1) + 0.01 * sources.std() * noise


@pytest.fixture(params=[si_sdr_pairs, sdr_pairs], ids=["si_sdr", "sdr"])
def measure(request):
    return request.param


def own(pairs: torch.Tensor) -> torch.Tensor:
    return pairs.diagonal(dim1=1, dim2=2)


def test_a_scaled_copy_is_perfect(measure):
    sources = voices()
    scores = own(measure(-0.3 * sources, sources))
    torch.testing.assert_close(scores, torch.full((3, 2), LIMIT_DB).double())


def test_an_offset_costs_nothing_in_si_sdr():
    sources = voices()
    assert own(si_sdr_pairs(sources + 5.0, sources)).min() > LIMIT_DB - 1e-6


@pytest.mark.parametrize("decibels", [-20.0, -3.0, 0.0, 10.0, 35.0])
def test_orthogonal_noise_at_a_known_ratio(decibels):
    time = torch.arange(RATE) / RATE
    tone = (2 * math.pi * 440 * time).sin()[None, None].double()
    noise = (2 * math.pi * 440 * time).cos()[None, None].double()
    estimate = 3 * (tone + 10 ** (-decibels / 20) * noise)
    assert si_sdr_pairs(estimate, tone).item() == pytest.approx(decibels, abs=1e-3)


def test_a_filtered_reference_is_perfect_for_sdr_alone():
    sources = voices()
    kernel = torch.tensor([0.9, -0.4, 0.2, 0.1]).double()
    padded = torch.nn.functional.pad(sources, (3, 0)).unfold(-1, 4, 1)
    filtered = padded @ kernel.flip(0)
    assert own(sdr_pairs(filtered, sources)).min() > 25
    assert own(si_sdr_pairs(filtered, sources)).max() < 20


@pytest.mark.parametrize("factor", [1e-12, 0.01, 37.0])
def test_scale_does_not_count(measure, factor):
    sources = voices()
    estimates = estimates_of(sources)
    expected = measure(estimates, sources)
    torch.testing.assert_close(measure(factor * estimates, sources), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(measure(estimates, factor * sources), expected, atol=1e-6, rtol=0)


def test_only_the_reference_may_be_filtered():
    """Swapped arguments give another number: trap 14, behind published SDRi values."""
    generator = torch.Generator().manual_seed(2)
    white = torch.randn(3, 2, RATE, generator=generator, dtype=torch.float64)
    smooth = white.unfold(-1, 64, 1).mean(-1)  # no filter undoes it exactly
    white = white[..., 63:]  # the filter may only look back
    assert own(sdr_pairs(smooth, white)).min() > 15
    assert own(sdr_pairs(white, smooth)).max() < 10


def test_rows_are_references_and_columns_estimates(measure):
    sources = voices()
    pairs = measure(estimates_of(sources[:, :1].expand(-1, 3, -1).clone()), sources)
    assert pairs.shape == (3, 2, 3)
    assert (pairs[:, 0] > pairs[:, 1]).all()  # every estimate is made of reference 0


def test_the_best_order_is_found_and_named():
    sources = voices()
    pairs = si_sdr_pairs(estimates_of(sources), sources)
    values, order = best(pairs)
    swapped_values, swapped_order = best(pairs.flip(2))
    assert torch.equal(values, swapped_values)
    assert order.tolist() == [[0, 1]] * 3
    assert swapped_order.tolist() == [[1, 0]] * 3


def test_the_best_order_has_the_best_mean_not_the_best_single():
    pairs = torch.tensor([[[10.0, 9.0], [8.0, 0.0]]])  # greedily 10 + 0, together 9 + 8
    values, order = best(pairs)
    assert values.tolist() == [[9.0, 8.0]]
    assert order.tolist() == [[1, 0]]


def test_three_sources():
    generator = torch.Generator().manual_seed(4)
    sources = torch.randn(2, 3, 4000, generator=generator)
    _, order = best(si_sdr_pairs(sources[:, [2, 0, 1]], sources))
    assert order.tolist() == [[1, 2, 0]] * 2


def test_doing_nothing_gains_nothing(measure):
    sources = voices()
    mix = sources.sum(1)
    gain = improvement(measure, mix[:, None].expand(-1, 2, -1), sources, mix)
    torch.testing.assert_close(gain, torch.zeros(3).double(), atol=1e-9, rtol=0)


def test_the_gain_does_not_depend_on_the_order_nor_on_where_the_start_comes_from(measure):
    sources = voices()
    estimates, mix = estimates_of(sources), sources.sum(1)
    expected = improvement(measure, estimates, sources, mix)
    start = of_mixture(measure, mix, sources)
    # Both channels swap at once, so equality is to the last bits of the batched product.
    torch.testing.assert_close(improvement(measure, estimates.flip(1), sources, mix), expected)
    torch.testing.assert_close(
        improvement(measure, estimates, sources, mix, start), expected, atol=0, rtol=0
    )


def test_the_mixture_scores_zero_db_for_equal_orthogonal_sources():
    time = torch.arange(RATE) / RATE
    sources = torch.stack([(2 * math.pi * f * time).sin() for f in (440, 700)])[None]
    start = of_mixture(si_sdr_pairs, sources.sum(1), sources)
    assert start.item() == pytest.approx(0, abs=1e-4)


def test_a_silent_estimate_gets_the_lower_limit(measure):
    sources = voices()
    scores = measure(torch.zeros_like(sources), sources)
    assert (scores == -LIMIT_DB).all()
    constant = si_sdr_pairs(torch.full_like(sources, 0.1), sources)
    assert (constant == -LIMIT_DB).all()


def test_a_silent_reference_is_refused(measure):
    sources = voices()
    sources[1, 0] = 0
    with pytest.raises(ValueError, match="silent"):
        measure(voices(), sources)


def test_a_constant_reference_is_silent_too():
    sources = voices()
    sources[1, 0] = 0.1
    with pytest.raises(ValueError, match="silent"):
        si_sdr_pairs(voices(), sources)


def test_bad_signals_are_refused(measure):
    sources = voices()
    with pytest.raises(ValueError, match="must agree"):
        measure(sources[:, :, :-1], sources)
    with pytest.raises(ValueError, match="must be"):
        measure(sources[0], sources[0])
    with pytest.raises(ValueError, match="not finite"):
        measure(sources * math.nan, sources)
    with pytest.raises(ValueError, match="must be"):
        best(torch.zeros(2, 2, 3))


def test_single_precision_input_changes_nothing_visible(measure):
    sources = voices()
    estimates = estimates_of(sources)
    torch.testing.assert_close(
        measure(estimates.float(), sources.float()), measure(estimates, sources), atol=1e-3, rtol=0
    )


def test_torchmetrics_agrees():
    audio = pytest.importorskip("torchmetrics.functional.audio")
    sources = voices()
    estimates = estimates_of(sources)
    ours = own(si_sdr_pairs(estimates, sources))
    theirs = audio.scale_invariant_signal_distortion_ratio(estimates, sources, zero_mean=True)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    ours = own(sdr_pairs(estimates, sources))
    theirs = audio.signal_distortion_ratio(estimates, sources)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    theirs, _ = audio.permutation_invariant_training(
        estimates.flip(1), sources, audio.signal_distortion_ratio, eval_func="max"
    )
    ours = best(sdr_pairs(estimates.flip(1), sources))[0].mean(-1)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_fast_bss_eval_agrees_reference_first():
    fast_bss_eval = pytest.importorskip("fast_bss_eval")
    sources = voices()
    estimates = estimates_of(sources)
    theirs = fast_bss_eval.sdr(sources, estimates)
    ours, _ = best(sdr_pairs(estimates, sources))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_mir_eval_agrees():
    separation = pytest.importorskip("mir_eval.separation")
    sources = voices(batch=1)
    estimates = estimates_of(sources).flip(1)
    sdr, _, _, order = separation.bss_eval_sources(sources[0].numpy(), estimates[0].numpy())
    ours, ours_order = best(sdr_pairs(estimates, sources))
    # It pads the estimate by the filter's length, which the Toeplitz form leaves out.
    np.testing.assert_allclose(ours[0].numpy(), sdr, atol=0.05)
    assert ours_order[0].tolist() == order.tolist()
