"""Changes of basis in front of a linear layer that leave its product as it is.

Each is a module with two methods, `inputs` of (…, in) and `weights` of (out, in), for which
inputs(X) · weights(W)ᵀ = X · Wᵀ,  but which quantize better. As a matrix: X·P and W·P⁻ᵀ. Only for
an orthogonal P are the two alike, so a P that is learned freely and multiplied to both sides would
not be exact; here the inverse is explicit.

The weight's side costs nothing once codes are fixed: they are codes of the transformed weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.quantize import pack
from stages.quantize.hadamard import factors, signs

DENSE = 128
"""Up to this width one product by the whole matrix is faster than two by its factors."""


Side = Literal["inputs", "weights"]


class Diagonal(nn.Module):
    """X / c and W · c, c > 0 by channel (SmoothQuant, arXiv 2211.10438, equation 3).

    Kept as log c: what is learned stays positive, and a step of the optimiser is a ratio.
    """

    def __init__(self, scale: Tensor, *, learned: bool) -> None:
        """`scale` is c, (in,), all above zero."""
        super().__init__()
        if not bool((scale > 0).all()):
            raise ValueError("a scale is not above zero")
        self.log_scale = nn.Parameter(scale.detach().log(), requires_grad=learned)

    def inputs(self, x: Tensor) -> Tensor:
        return x * torch.exp(-self.log_scale).to(x.dtype)

    def weights(self, weight: Tensor) -> Tensor:
        return weight * torch.exp(self.log_scale).to(weight.dtype)


class Rotation(nn.Module):
    """X · R and W · R for the orthogonal R = diag(signs) · (left ⊗ right), which is not learned.

    Of its state only the signs are saved, a bit each: the matrices follow from the width.
    """

    def __init__(self, left: Tensor, right: Tensor, sign: Tensor) -> None:
        """`left` (a, a) and `right` (b, b) are orthogonal, `sign` is (a·b,) of ±1."""
        super().__init__()
        for matrix in (left, right):
            _check_orthogonal(matrix)
        self.left = nn.Buffer(left.float(), persistent=False)
        self.right = nn.Buffer(right.float(), persistent=False)
        self.sign = nn.Buffer(sign.float(), persistent=False)
        self.negative = nn.Buffer(pack.pack(sign < 0, 1))

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.sign.copy_(1 - 2 * pack.unpack(self.negative, 1, len(self.sign)).float())

    @classmethod
    def hadamard(cls, size: int, generator: torch.Generator) -> Rotation:
        """A Hadamard matrix with random signs (QuaRot, arXiv 2404.00456)."""
        return cls(*factors(size), signs(size, generator))

    def inputs(self, x: Tensor) -> Tensor:
        return times_kronecker(x * self.sign.to(x.dtype), self.left, self.right)

    def weights(self, weight: Tensor) -> Tensor:
        return self.inputs(weight)


class Kronecker(nn.Module):
    """X · P and W · P⁻ᵀ for a learned invertible P = left ⊗ right (FlatQuant, arXiv 2410.09426).

    Two small matrices in place of one of in × in: a token costs in·(a + b) products, the inverse
    a³ + b³.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        """Starts at `left` (a, a) and `right` (b, b), both invertible."""
        super().__init__()
        self.left, self.right = nn.Parameter(left.float()), nn.Parameter(right.float())

    @classmethod
    def hadamard(cls, size: int) -> Kronecker:
        """Starts at the Hadamard matrix, where a rotation that is not learned would stay."""
        return cls(*factors(size))

    @classmethod
    def identity(cls, size: int) -> Kronecker:
        a = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0)
        return cls(torch.eye(a), torch.eye(size // a))

    def inputs(self, x: Tensor) -> Tensor:
        return times_kronecker(x, self.left, self.right)

    def weights(self, weight: Tensor) -> Tensor:
        return times_kronecker(weight, *self._inverse())

    def matrix(self, side: Side) -> Tensor:
        """P or P⁻ᵀ, multiplied out."""
        return torch.kron(*((self.left, self.right) if side == "inputs" else self._inverse()))

    def _inverse(self) -> tuple[Tensor, Tensor]:
        return torch.linalg.inv(self.left).mT, torch.linalg.inv(self.right).mT


class Chain(nn.Module):
    """Several transforms, the first first, on activations and on weights alike.

    P = P₁·P₂ goes with P⁻ᵀ = P₁⁻ᵀ·P₂⁻ᵀ: the same order on both sides. Scaling, then rotating is
    not rotating, then scaling; so the order is the caller's to state.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def inputs(self, x: Tensor) -> Tensor:
        return self._through("inputs", x)

    def weights(self, weight: Tensor) -> Tensor:
        return self._through("weights", weight)

    def _through(self, side: Side, x: Tensor) -> Tensor:
        size = x.shape[-1]
        if self.parts and size <= DENSE and x.numel() > size * size:
            # One product by what the parts make of the identity, which has fewer rows than x.
            return x @ self._matrix(side, x)
        for part in self.parts:
            x = getattr(part, side)(x)
        return x

    def _matrix(self, side: Side, like: Tensor) -> Tensor:
        first, *rest = self.parts
        if isinstance(first, Kronecker):
            whole = first.matrix(side).to(like.dtype)
        else:
            eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
            whole = getattr(first, side)(eye)
        for part in rest:
            whole = getattr(part, side)(whole)
        return whole


def times_kronecker(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """x · (left ⊗ right) for x (…, a·b): a row as an (a, b) matrix becomes leftᵀ · x · right."""
    left, right = left.to(x.dtype), right.to(x.dtype)
    if len(left) * len(right) <= DENSE:
        return x @ torch.kron(left, right)
    if torch.is_grad_enabled():
        found: Tensor = _ByFactors.apply(x, left, right)
        return found
    table = x.unflatten(-1, (len(left), len(right)))
    return (left.mT @ (table @ right)).flatten(-2)


class _ByFactors(torch.autograd.Function):
    """`times_kronecker` where it learns: two products over all rows at once, and so its gradient.

    Tables (a, b) are laid out as (a, rows, b): forward and backward by many small matrices, one a
    row, would cost half as much again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        a, b = len(left), len(right)
        tables = x.reshape(-1, a, b).transpose(0, 1).reshape(a, -1)
        turned = (left.mT @ tables).view(-1, b)
        ctx.save_for_backward(tables, turned, left, right)
        return (turned @ right).view(a, -1, b).transpose(0, 1).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        tables, turned, left, right = ctx.saved_tensors
        a, b = len(left), len(right)
        after = gradient.reshape(-1, a, b).transpose(0, 1).reshape(-1, b)
        between = (after @ right.mT).view(a, -1)
        to_x = to_left = to_right = None
        if ctx.needs_input_grad[0]:
            to_x = (left @ between).view(a, -1, b).transpose(0, 1).reshape(gradient.shape)
        if ctx.needs_input_grad[1]:
            to_left = tables @ between.mT
        if ctx.needs_input_grad[2]:
            to_right = turned.mT @ after
        return to_x, to_left, to_right


def _check_orthogonal(matrix: Tensor) -> None:
    double = matrix.double()
    gap = (double @ double.mT - torch.eye(len(double), device=double.device)).abs().max()
    if float(gap) > 1e-5:
        raise ValueError(f"not orthogonal: R·Rᵀ is off the identity by {float(gap):.2g}")
