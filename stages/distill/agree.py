"""How much each of several teachers counts: weights under which their gradients agree best.

AE-KD ("Agree to Disagree", NeurIPS 2020): a = argmin ½ |Σ a_m g_m|² over Σ a_m = 1, 0 <= a_m <= C,
g_m the gradient of teacher m's loss at a tensor of the student. C = 1 is no bound; C = 1/M leaves
only equal weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

SLACK = 1e-9


def weights(gradients: Sequence[Tensor], bound: float) -> Tensor:
    """The weights of the teachers, without gradient: (M,), sum 1.

    Args:
        gradients: one tensor a teacher, all of one shape; the batch is part of it.
        bound: C, the largest weight.

    Raises:
        ValueError: no weights below the bound sum to one.
    """
    count = len(gradients)
    if bound * count < 1 - SLACK:
        raise ValueError(f"{count} weights of at most {bound} cannot sum to one")
    rows = torch.stack([g.detach().flatten() for g in gradients]).double()
    gram = rows @ rows.T
    found = pair(gram, bound) if count == 2 else solve(gram, bound)
    return found.to(gradients[0].dtype)


def pair(gram: Tensor, bound: float) -> Tensor:
    """Two teachers, in closed form: a_1 = <g_2 - g_1, g_2> / |g_1 - g_2|², cut to [1 - C, C].

    Args:
        gram: (2, 2), the products <g_i, g_j>.
    """
    apart = gram[0, 0] - 2 * gram[0, 1] + gram[1, 1]
    # Where the two gradients are one, any weights do: equal ones.
    same = apart <= 1e-12 * (gram[0, 0] + gram[1, 1])
    half = torch.full_like(apart, 0.5)
    first = torch.where(same, half, (gram[1, 1] - gram[0, 1]) / torch.where(same, half, apart))
    first = first.clamp(max(0.0, 1 - bound), min(1.0, bound))
    return torch.stack([first, 1 - first])


def solve(gram: Tensor, bound: float) -> Tensor:
    """A few teachers, exactly: the best of the stationary points of all faces of the domain.

    On a face every weight is 0, C or free; the free ones solve a linear system. The optimum is
    such a point of some face, and there are only 3^M.

    Args:
        gram: (M, M), positive semidefinite.
    """
    count = len(gram)
    best, lowest = torch.full_like(gram[0], 1 / count), float("inf")
    for face in itertools.product((0.0, bound, None), repeat=count):
        a = _stationary(gram, face)
        feasible = abs(float(a.sum()) - 1) < SLACK
        feasible &= bool((a > -SLACK).all()) and bool((a < bound + SLACK).all())
        value = float(a @ gram @ a)
        if feasible and value < lowest:
            best, lowest = a, value
    return best.clamp(0.0, bound)


def _stationary(gram: Tensor, face: Sequence[float | None]) -> Tensor:
    """The point of a face where the objective is stationary under Σ a = 1."""
    a = torch.tensor([0.0 if x is None else x for x in face], dtype=gram.dtype, device=gram.device)
    free = [m for m, x in enumerate(face) if x is None]
    if not free:
        return a
    size = len(free)
    scale = gram.diagonal().mean().clamp(min=1e-30)
    system = gram.new_ones(size + 1, size + 1)
    system[:size, :size] = gram[free][:, free] / scale
    system[size, size] = 0
    right = torch.cat([-(gram[free] @ a) / scale, (1 - a.sum())[None]])
    a[free] = (torch.linalg.pinv(system) @ right)[:size]
    return a
