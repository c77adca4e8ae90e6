"""Merlin's loss against its definition: sums over rates, a mean over pairs, the decay."""

from __future__ import annotations

import pytest
import torch

from pipelines.merlin.losses import decay, forecast_loss, masked_mae, teacher_loss


def test_the_error_counts_recorded_targets_alone() -> None:
    estimate = torch.tensor([[[1.0, 5.0], [2.0, 9.0]]])
    target = torch.tensor([[[0.0, 2.0], [2.0, 0.0]]])
    label = torch.tensor([[[True, True], [True, False]]])
    assert float(masked_mae(estimate, target, label)) == pytest.approx((1 + 3 + 0) / 3)


def test_a_target_of_zero_is_a_target_like_any_other() -> None:
    """Zero after normalisation is the mean of a sensor, or its minimum, and no sign of a gap."""
    estimate, target = torch.tensor([[[3.0]]]), torch.tensor([[[0.0]]])
    assert float(masked_mae(estimate, target, torch.ones(1, 1, 1, dtype=torch.bool))) == 3
    assert float(masked_mae(estimate, target, torch.zeros(1, 1, 1, dtype=torch.bool))) == 0


def test_what_is_not_recorded_gives_no_gradient() -> None:
    estimate = torch.randn(2, 3, 4, requires_grad=True)
    label = torch.rand(2, 3, 4) > 0.5
    masked_mae(estimate, torch.full((2, 3, 4), torch.nan).where(~label, 0.0), label).backward()
    assert torch.equal(estimate.grad != 0, label)  # type: ignore[union-attr]


def test_losses_are_sums_over_views() -> None:
    torch.manual_seed(0)
    views, target = torch.randn(4, 3, 5, 2), torch.randn(3, 5, 2)
    label = torch.rand(3, 5, 2) > 0.3
    one_by_one = sum(float(masked_mae(view, target, label)) for view in views)
    assert float(forecast_loss(views, target, label)) == pytest.approx(one_by_one, rel=1e-5)
    squares = sum(float((view - target).square().mean()) for view in views)
    assert float(teacher_loss(views, target)) == pytest.approx(squares, rel=1e-5)
    # The same view four times weighs four times as much: no mean.
    assert float(teacher_loss(views[:1].expand(4, -1, -1, -1), target)) == pytest.approx(
        4 * float(teacher_loss(views[:1], target)), rel=1e-5
    )


def test_the_decay_is_the_published_one() -> None:
    assert [decay(e, 3) for e in range(1, 9)] == [1, 1, 1, 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    assert decay(13, 3) == pytest.approx(0.1)
    assert decay(104, 3) == pytest.approx(1 / 101)
    assert decay(1, 0) == 1 and decay(4, 0) == 1 / 4
