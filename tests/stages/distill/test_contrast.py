"""NT-Xent against loops and closed forms."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.distill.contrast import apart, multi_view, nt_xent, similarities


def by_hand(first: Tensor, second: Tensor, temperature: float, rivals: Tensor | None) -> float:
    """The definition, row by row, in double precision."""
    size = len(first)
    z = F.normalize(torch.cat([first, second]).double(), dim=1)
    total = 0.0
    for i in range(2 * size):
        own = (i + size) % (2 * size)
        others = [
            j
            for j in range(2 * size)
            if j != i and (j == own or rivals is None or rivals[i % size, j % size])
        ]
        weights = {j: math.exp(float(z[i] @ z[j]) / temperature) for j in others}
        total -= math.log(weights[own] / sum(weights.values()))
    return total / (2 * size)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("barred", [False, True])
def test_it_is_the_definition(temperature: float, barred: bool) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(5, 3), torch.randn(5, 3)
    rivals = torch.rand(5, 5) > 0.5 if barred else None
    loss = nt_xent(first, second, temperature, rivals)
    assert float(loss) == pytest.approx(by_hand(first, second, temperature, rivals), rel=1e-5)


@pytest.mark.parametrize("size", [2, 16])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_identical_codes_give_the_logarithm_of_the_choices(size: int, temperature: float) -> None:
    code = torch.ones(size, 4)
    loss = float(nt_xent(code, 3 * code, temperature))
    assert loss == pytest.approx(math.log(2 * size - 1), rel=1e-6)


def test_the_best_value_at_temperature_one_is_not_near_zero() -> None:
    """Each pair identical and the windows on a simplex, cosine -1/(B-1): log(1 + 30 e^(-16/15))."""
    size = 16
    simplex = torch.eye(size) - 1 / size
    best = float(nt_xent(simplex, simplex, 1.0))
    cosine = -1 / (size - 1)
    assert best == pytest.approx(math.log(1 + (2 * size - 2) * math.exp(cosine - 1)), rel=1e-5)
    assert 2.4 < best < 2.5 < math.log(2 * size - 1)


def test_opposite_codes_are_as_good_as_any() -> None:
    """An older version of the released loss takes the logarithm of a similarity: NaN here."""
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], requires_grad=True)
    loss = nt_xent(first, -first.detach(), 0.1)
    loss.backward()
    assert loss.item() > 10 and first.grad is not None and bool(first.grad.isfinite().all())


def test_many_views_are_the_mean_over_pairs() -> None:
    torch.manual_seed(1)
    codes = torch.randn(4, 6, 5)
    rivals = apart(torch.tensor([0, 3, 30, 60, 62, 90]), 24)
    for bar in (None, rivals):
        pairs = [float(nt_xent(a, b, 0.5, bar)) for a, b in combinations(codes, 2)]
        assert len(pairs) == 6
        assert float(multi_view(codes, 0.5, bar)) == pytest.approx(sum(pairs) / 6, rel=1e-5)


def test_windows_that_share_steps_are_no_rivals() -> None:
    places = torch.tensor([0, 23, 24, 100])
    expected = [[0, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0]]
    assert apart(places, 24).int().tolist() == expected
    # With every rival barred only the own view is left to find: nothing to lose.
    torch.manual_seed(2)
    first, second = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    none = torch.zeros(4, 4, dtype=torch.bool)
    loss = nt_xent(first, second, 1.0, none)
    loss.backward()
    assert loss.item() == 0 and float(first.grad.abs().max()) == 0  # type: ignore[union-attr]


def test_the_gradient_draws_pairs_together_and_others_apart() -> None:
    torch.manual_seed(3)
    first, second = torch.randn(8, 4, requires_grad=True), torch.randn(8, 4, requires_grad=True)
    same, other = similarities([first.detach(), second.detach()])
    for _ in range(200):
        loss = nt_xent(first, second, 1.0)
        for part, grad in zip(
            (first, second), torch.autograd.grad(loss, (first, second)), strict=True
        ):
            part.data -= 0.5 * grad
    later_same, later_other = similarities([first.detach(), second.detach()])
    assert later_same > 0.95 > same and later_other < other


def test_the_gradient_is_right() -> None:
    torch.manual_seed(4)
    codes = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: multi_view(c, 0.7), (codes,))


def test_similarities_by_hand() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    second = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    same, other = similarities([first, second])
    assert same == pytest.approx((1 + 0) / 2)
    assert other == pytest.approx((1 + 0) / 2)
    same, other = similarities([first, first, first])
    assert (same, other) == (pytest.approx(1), pytest.approx(0))
