"""The Fréchet distance against closed forms and scipy's matrix root."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from stages.evaluate.frechet import frechet


def drawn(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).double()


def whitened(x):
    """The same set with mean 0 and covariance 1 exactly."""
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T


def test_a_set_has_no_distance_from_itself() -> None:
    x = drawn(50, 6)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)


def test_a_shift_counts_squared() -> None:
    x = drawn(50, 4)
    assert frechet(x, x + torch.tensor([3.0, 0, -4.0, 0])) == pytest.approx(25)


def test_scales_along_the_axes_have_a_closed_form() -> None:
    x = whitened(drawn(80, 3))
    a, b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([4.0, 2.0, 0.0]).double()
    assert frechet(x * a, x * b) == pytest.approx(float((a - b).square().sum()))


def test_a_rotation_of_a_round_set_is_no_distance() -> None:
    x = whitened(drawn(60, 5))
    turn = torch.linalg.qr(drawn(5, 5, seed=1))[0]
    assert frechet(x, x @ turn) == pytest.approx(0, abs=1e-9)


def test_it_agrees_with_the_root_of_the_product() -> None:
    a = drawn(100, 5) @ drawn(5, 5, seed=1)
    b = drawn(90, 5, seed=2) @ drawn(5, 5, seed=3) + 1
    x, y = a.numpy(), b.numpy()
    first, second = np.cov(x.T), np.cov(y.T)
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum()
    expected = gap + np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    assert frechet(a, b) == pytest.approx(expected)
    assert frechet(b, a) == pytest.approx(expected)


def test_fewer_vectors_than_features_are_allowed() -> None:
    assert frechet(drawn(4, 9), drawn(4, 9, seed=1)) > 0


def test_one_feature_is_allowed() -> None:
    assert frechet(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [7.0]])) == pytest.approx(25)


@pytest.mark.parametrize(("a", "b"), [((1, 3), (5, 3)), ((5, 3), (5, 4))])
def test_what_cannot_be_compared_is_refused(a, b) -> None:
    with pytest.raises(ValueError, match="two sets"):
        frechet(torch.zeros(a), torch.zeros(b))
