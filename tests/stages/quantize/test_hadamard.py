"""Orthogonal matrices of any size, and how evenly they spread."""

from __future__ import annotations

import math

import pytest
import torch

from stages.quantize.hadamard import factors, hadamard, signs


@pytest.mark.parametrize("size", [*range(1, 65), 96, 192, 320, 384, 768])
def test_any_size_is_orthogonal_and_spreads_an_outlier(size: int) -> None:
    matrix = hadamard(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size).double(), rtol=0, atol=1e-12)
    # One channel's outlier is at most √2/√size of itself in any other.
    assert float(matrix.abs().max()) <= math.sqrt(2 / size) + 1e-12


@pytest.mark.parametrize("size", [1, 2, 4, 8, 64, 128, 12, 20, 24, 44, 96, 192, 384, 768])
def test_where_a_paley_core_fits_all_entries_are_alike(size: int) -> None:
    matrix = hadamard(size) * math.sqrt(size)
    torch.testing.assert_close(matrix.abs(), torch.ones(size, size).double(), rtol=0, atol=1e-12)


def test_the_widths_of_published_models_have_a_true_hadamard_matrix() -> None:
    for size in (1152, 1920, 3072, 4608, 7680):
        left, right = (part.abs() * math.sqrt(len(part)) for part in factors(size))
        for part in (left, right):
            torch.testing.assert_close(part, torch.ones_like(part), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [16, 96, 128, 384, 1024, 3072])
def test_the_factors_are_near_the_root(size: int) -> None:
    left, right = factors(size)
    assert len(left) * len(right) == size
    assert max(len(left), len(right)) / min(len(left), len(right)) <= 4


def test_a_power_of_two_is_sylvesters() -> None:
    bits = [[bin(i & j).count("1") for j in range(16)] for i in range(16)]
    wanted = (1.0 - 2.0 * (torch.tensor(bits) % 2)).double() / 4
    torch.testing.assert_close(hadamard(16), wanted)


def test_signs_are_random_and_repeatable() -> None:
    first, again, other = (signs(4096, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first.abs(), torch.ones(4096).double())
    assert abs(float(first.mean())) < 4 / math.sqrt(4096)


def test_no_size_below_one() -> None:
    with pytest.raises(ValueError, match="size 0"):
        factors(0)
