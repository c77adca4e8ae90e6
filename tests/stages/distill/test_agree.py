"""The weights of several teachers: closed form, exact solver and SciPy's agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.distill.agree import pair, solve, weights


def gram(count: int, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, size, generator=generator, dtype=torch.float64)
    rows *= torch.rand(count, 1, generator=generator, dtype=torch.float64) * 3 + 0.1
    rows += torch.randn(size, generator=generator, dtype=torch.float64)  # what they agree on
    return rows @ rows.T


def objective(products: Tensor, a: Tensor) -> float:
    return float(a @ products @ a)


def by_scipy(products: Tensor, bound: float) -> float:
    from scipy.optimize import minimize

    g, count = products.numpy(), len(products)
    g = g / np.trace(g)
    done = minimize(
        lambda a: a @ g @ a, np.full(count, 1 / count), jac=lambda a: 2 * g @ a, method="SLSQP",
        bounds=[(0, bound)] * count, constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    assert done.success
    return float(done.fun * np.trace(products.numpy()))


@pytest.mark.parametrize("bound", [0.5, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_closed_form_for_two_equals_the_solvers(seed: int, bound: float) -> None:
    products = gram(2, 7, seed)
    closed = pair(products, bound)
    torch.testing.assert_close(closed, solve(products, bound), rtol=1e-7, atol=1e-8)
    assert objective(products, closed) == pytest.approx(by_scipy(products, bound), rel=1e-6)


@pytest.mark.parametrize("bound", [1 / 3, 0.4, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_three_teachers_against_scipy(seed: int, bound: float) -> None:
    products = gram(3, 2 if seed == 3 else 9, seed)  # also more teachers than dimensions
    found = solve(products, bound)
    assert float(found.sum()) == pytest.approx(1.0)
    assert float(found.min()) >= 0 and float(found.max()) <= bound + 1e-9
    assert objective(products, found) == pytest.approx(by_scipy(products, bound), rel=1e-5)


def test_opposite_gradients_cancel_and_equal_ones_share() -> None:
    g = torch.tensor([3.0, -1.0])
    found = weights([g, -2 * g], 1.0)
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1 / 3]))
    torch.testing.assert_close(weights([g, g.clone()], 1.0), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(weights([torch.zeros(2)] * 2, 1.0), torch.tensor([0.5, 0.5]))


def test_the_shorter_of_two_parallel_gradients_wins_up_to_the_bound() -> None:
    g = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(weights([g, 5 * g], 1.0), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(weights([g, 5 * g], 0.8), torch.tensor([0.8, 0.2]))


def test_trap_7_one_teacher_changes_nothing() -> None:
    assert weights([torch.randn(4, 3)], 1.0).tolist() == [1.0]


def test_the_step_is_no_longer_than_with_any_other_weights() -> None:
    generator = torch.Generator().manual_seed(3)
    g, h = (torch.randn(2, 3, generator=generator) for _ in range(2))
    a, b = weights([g, h], 1.0).tolist()
    least = (a * g + b * h).norm()
    assert all(least <= (t * g + (1 - t) * h).norm() + 1e-6 for t in torch.linspace(0, 1, 21))


def test_a_bound_that_leaves_no_weights_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot sum to one"):
        weights([torch.ones(1)] * 2, 0.4)
