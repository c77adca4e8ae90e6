"""Separation losses against closed forms, brute force, and torchmetrics. Trap 7."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from pipelines.sepprune import losses


@pytest.fixture
def waves() -> tuple[Tensor, Tensor]:
    """Estimates and sources (5, 3, 400), none of zero mean."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(5, 3, 400, generator=generator) + 0.2
    mixed = sources[:, [2, 0, 1]] + 0.3 * torch.randn(5, 3, 400, generator=generator)
    return mixed, sources


@pytest.mark.parametrize("wanted", [-5.0, 0.0, 12.0, 25.0])
def test_orthogonal_noise_gives_the_ratio_of_the_energies(wanted: float) -> None:
    time = torch.arange(1000) / 1000
    source, noise = torch.sin(2 * torch.pi * 5 * time), torch.sin(2 * torch.pi * 9 * time)
    estimate = source + noise * 10 ** (-wanted / 20)
    assert float(losses.snr(estimate, source)) == pytest.approx(wanted, abs=1e-3)
    assert float(losses.si_sdr(estimate, source)) == pytest.approx(wanted, abs=1e-3)


def test_trap_7_snr_fixes_the_scale_and_si_sdr_does_not(waves: tuple[Tensor, Tensor]) -> None:
    estimate, source = waves[0][:, [1, 2, 0]], waves[1]
    for scale in (0.01, 0.5, 3.0):
        torch.testing.assert_close(
            losses.si_sdr(scale * estimate, source), losses.si_sdr(estimate, source),
            rtol=0, atol=1e-3,
        )  # fmt: skip
    # A perfect estimate at half the scale leaves half the source as noise: 20 log10 2.
    assert torch.allclose(losses.snr(0.5 * source, source), torch.tensor(6.0206), atol=1e-3)


def test_an_offset_of_either_signal_changes_nothing(waves: tuple[Tensor, Tensor]) -> None:
    estimate, source = waves
    for measure in (losses.snr, losses.si_sdr):
        torch.testing.assert_close(
            measure(estimate + 0.7, source - 0.4), measure(estimate, source), rtol=0, atol=1e-3
        )


def test_it_agrees_with_torchmetrics(waves: tuple[Tensor, Tensor]) -> None:
    from torchmetrics.functional import audio

    estimate, source = waves[0][:, [1, 2, 0]], waves[1]
    torch.testing.assert_close(
        losses.si_sdr(estimate, source),
        audio.scale_invariant_signal_distortion_ratio(estimate, source, zero_mean=True),
        rtol=0, atol=1e-3,
    )  # fmt: skip
    torch.testing.assert_close(
        losses.snr(estimate, source),
        audio.signal_noise_ratio(estimate, source, zero_mean=True),
        rtol=0, atol=1e-3,
    )  # fmt: skip


@pytest.mark.parametrize("count", [2, 3])
def test_pit_finds_what_brute_force_finds(waves: tuple[Tensor, Tensor], count: int) -> None:
    estimate, source = waves[0][:, :count], waves[1][:, :count]
    best, order = losses.pit(losses.si_sdr, estimate, source)
    for index in range(len(source)):
        tried = {
            turn: float(losses.si_sdr(estimate[index, list(turn)], source[index]).mean())
            for turn in permutations(range(count))
        }
        assert float(best[index]) == pytest.approx(max(tried.values()), abs=1e-4)
        assert tuple(order[index].tolist()) == max(tried, key=lambda turn: tried[turn])
    aligned = estimate.gather(1, order[:, :, None].expand_as(estimate))
    torch.testing.assert_close(losses.si_sdr(aligned, source).mean(-1), best)


def test_the_order_of_the_estimates_does_not_matter(waves: tuple[Tensor, Tensor]) -> None:
    estimate, source = waves[0][:, :2], waves[1][:, :2]
    assert torch.equal(
        losses.training_loss(estimate, source), losses.training_loss(estimate.flip(1), source)
    )


def test_pit_refuses_shapes_that_do_not_match(waves: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"expected two \(B, C, T\)"):
        losses.pit(losses.snr, waves[0][:, :2], waves[1])


def test_easy_mixtures_are_dropped_unless_all_are() -> None:
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(3, 2, 500, generator=generator)
    noise = torch.randn(3, 2, 500, generator=generator)
    levels = torch.tensor([1e-3, 0.1, 0.3])[:, None, None]
    estimate = (source + levels * noise).requires_grad_()
    each = losses.pit(losses.snr, estimate, source)[0]
    assert float(each[0].detach()) > losses.EASY_DB > float(each[1].detach())
    loss = losses.training_loss(estimate, source)
    torch.testing.assert_close(loss, -each[1:].mean())
    loss.backward()
    assert estimate.grad is not None
    assert float(estimate.grad[0].abs().max()) == 0 < float(estimate.grad[1].abs().max())
    torch.testing.assert_close(losses.training_loss(estimate, source, False), -each.mean())
    torch.testing.assert_close(losses.training_loss(estimate[:1], source[:1]), -each[0])
    scores = losses.pit(losses.si_sdr, estimate, source)[0]
    torch.testing.assert_close(losses.validation_loss(estimate, source), -scores.mean())


def test_silence_gives_finite_losses_and_gradients() -> None:
    source = torch.zeros(2, 2, 100)
    source[1] = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    estimate = torch.zeros(2, 2, 100, requires_grad=True)
    for loss in (losses.training_loss, losses.validation_loss):
        value = loss(estimate, source)
        (gradient,) = torch.autograd.grad(value, estimate)
        assert torch.isfinite(value) and torch.isfinite(gradient).all()
