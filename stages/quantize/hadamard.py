"""Orthogonal matrices that spread an outlier evenly, for any size.

QuaRot (arXiv 2404.00456) rotates activations and weights by a Hadamard matrix with random signs:
an outlier in one channel becomes 1/√n of itself in each of n. Here the matrix is always a Kronecker
product of two factors of like size, so that a token costs n·(a + b) products in place of n².
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def factors(size: int) -> tuple[Tensor, Tensor]:
    """Orthogonal (a, a) and (b, b) with a·b = size, whose Kronecker product spreads evenly.

    A core takes the odd part of the size and as few twos as it needs, `_sylvester` the rest. Where
    the core is a Paley matrix every entry of the product is ±1/√size; else (a Hadamard matrix of
    that size would have an odd factor) it is a Hartley matrix, with entries up to √2 times that.

    Returns:
        Double precision; a is a power of two, near √size where the core leaves it free.
    """
    if size < 1:
        raise ValueError(f"no matrix of size {size}")
    twos = (size & -size).bit_length() - 1
    odd = size >> twos
    if odd == 1:
        return _sylvester(twos // 2), _sylvester(twos - twos // 2)
    used = next((j for j in range(2, twos + 1) if _prime((odd << j) - 1)), None)
    core = _hartley(odd) if used is None else _paley(odd << used)
    free = twos - (used or 0)
    left = min(range(free + 1), key=lambda k: abs(math.log2(len(core)) + free - 2 * k))
    return _sylvester(left), torch.kron(_sylvester(free - left), core)


def hadamard(size: int) -> Tensor:
    """The orthogonal matrix of `factors`: (size, size) in double precision."""
    return torch.kron(*factors(size))


def signs(size: int, generator: torch.Generator) -> Tensor:
    """Random signs: (size,) of ±1 in double precision."""
    return 2.0 * torch.randint(0, 2, (size,), generator=generator).double() - 1.0


def _sylvester(power: int) -> Tensor:
    """The Hadamard matrix of size 2^power over the root of its size."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    for _ in range(power):
        matrix = torch.kron(matrix, step)
    return matrix


def _paley(size: int) -> Tensor:
    """Paley's first construction for size = q + 1, q a prime that leaves 3 on division by 4.

    I + S, where S is skew: a row of ones and, below it, the Legendre symbols of row minus column.
    """
    q = size - 1
    symbols = -torch.ones(q, dtype=torch.float64)
    symbols[torch.arange(q).square() % q] = 1.0
    symbols[0] = 0.0
    index = torch.arange(q)
    skew = torch.zeros(size, size, dtype=torch.float64)
    skew[0, 1:], skew[1:, 0] = 1.0, -1.0
    skew[1:, 1:] = symbols[(index[:, None] - index[None]) % q]
    return (torch.eye(size, dtype=torch.float64) + skew) / math.sqrt(size)


def _hartley(size: int) -> Tensor:
    """cos + sin of 2π·j·k/size over √size: symmetric and orthogonal for any size."""
    index = torch.arange(size)
    angle = 2 * math.pi / size * (index[:, None] * index[None] % size).double()
    return (angle.cos() + angle.sin()) / math.sqrt(size)


def _prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))
