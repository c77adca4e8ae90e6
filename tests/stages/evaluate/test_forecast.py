import numpy as np
import pytest
import torch

from stages.evaluate.forecast import Sums, sums

B, Q, N = 7, 4, 3
GROUPS = [np.array([0, 1, 2]), np.array([3, 4, 5, 6])]


@pytest.fixture
def batch() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(B, Q, N, generator=generator) * torch.tensor([1.0, 10.0, 100.0])
    estimate = truth + torch.randn(B, Q, N, generator=generator)
    label = torch.rand(B, Q, N, generator=generator) > 0.3
    return estimate, truth, label, torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 5.0, 50.0])


def brute(
    batch: tuple[torch.Tensor, ...], group: np.ndarray, step: int | None = None
) -> list[float]:
    estimate, truth, label, divisor, floor = (part.double().numpy() for part in batch)
    errors, shares = [], []
    for b in group:
        for q in range(Q) if step is None else [step - 1]:
            for n in range(N):
                if label[b, q, n]:
                    gap = abs(estimate[b, q, n] - truth[b, q, n])
                    errors.append(gap / divisor[n])
                    if abs(truth[b, q, n]) >= floor[n]:
                        shares.append(100 * gap / abs(truth[b, q, n]))
    return [
        float(np.mean(errors)), float(np.sqrt(np.mean(np.square(errors)))), float(np.mean(shares))
    ]  # fmt: skip


def test_scores_are_means_over_recorded_targets(batch: tuple[torch.Tensor, ...]) -> None:
    found = sums(*batch)
    made = np.stack([found.mae(GROUPS), found.rmse(GROUPS), found.mape(GROUPS)], axis=1)
    np.testing.assert_allclose(made, [brute(batch, group) for group in GROUPS], rtol=1e-12)


def test_one_step_ahead(batch: tuple[torch.Tensor, ...]) -> None:
    found = sums(*batch)
    for step in (1, Q):
        assert found.at(step).mae(GROUPS)[0] == pytest.approx(brute(batch, GROUPS[0], step)[0])
    cells = [found.at(step).cells.sum() for step in range(1, Q + 1)]
    weighted = sum(
        found.at(step).mae([np.arange(B)])[0] * cells[step - 1] for step in range(1, Q + 1)
    )
    assert found.mae([np.arange(B)])[0] == pytest.approx(float(weighted / sum(cells)))


def test_what_was_not_recorded_may_hold_anything(batch: tuple[torch.Tensor, ...]) -> None:
    estimate, truth, label, divisor, floor = batch
    before = sums(*batch)
    truth = torch.where(label, truth, torch.nan)
    after = sums(estimate, truth, label, divisor, floor)
    for measure in ("mae", "rmse", "mape"):
        np.testing.assert_array_equal(
            getattr(before, measure)(GROUPS), getattr(after, measure)(GROUPS)
        )


def test_a_true_zero_counts_in_mae_but_has_no_percentage() -> None:
    truth, estimate = torch.zeros(1, 1, 2), torch.tensor([[[3.0, 1.0]]])
    label = torch.ones(1, 1, 2, dtype=torch.bool)
    found = sums(estimate, truth, label, torch.ones(2), torch.zeros(2))
    assert found.mae([np.array([0])]).item() == 2.0
    assert np.isnan(found.mape([np.array([0])])).all()


def test_a_group_without_targets_has_no_score(batch: tuple[torch.Tensor, ...]) -> None:
    estimate, truth, label, divisor, floor = batch
    found = sums(estimate, truth, torch.zeros_like(label), divisor, floor)
    assert np.isnan(found.mae(GROUPS)).all() and np.isnan(found.rmse(GROUPS)).all()


def test_batches_add_up(batch: tuple[torch.Tensor, ...]) -> None:
    whole = sums(*batch)
    parts = [
        sums(*(part[cut] for part in batch[:3]), *batch[3:]) for cut in (slice(0, 2), slice(2, B))
    ]
    joined = Sums.joined(parts)
    assert torch.equal(joined.absolute, whole.absolute) and torch.equal(joined.cells, whole.cells)
    np.testing.assert_array_equal(joined.mape(GROUPS), whole.mape(GROUPS))
