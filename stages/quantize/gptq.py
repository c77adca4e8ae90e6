"""GPTQ: rounding a weight's columns one by one, each making up for the errors before it.

Frantar et al., arXiv 2210.17323. The error that counts is that of the layer's output over the
calibration inputs, tr(Δ·H·Δᵀ) with Δ = Ŵ - W and H = XᵀX over the number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from stages.quantize.capture import watching
from stages.quantize.grids import Grid, decode, encode
from stages.quantize.layers import Codes, QuantLinear

BLOCK = 128
"""Columns whose updates of later columns are held back and made in one product; speed alone."""


class Hessian:
    """H = XᵀX / tokens of a layer's inputs, (in, in) in double precision.

    The inputs are those that the quantized weight will meet: transformed, and quantized where the
    layer quantizes them.
    """

    def __init__(self, size: int, device: torch.device | None = None) -> None:
        self.total = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.tokens = 0

    def add(self, inputs: Tensor) -> None:
        """Take in a batch (…, in)."""
        rows = inputs.detach().flatten(0, -2).float()
        self.total += (rows.mT @ rows).double()
        self.tokens += len(rows)

    @property
    def matrix(self) -> Tensor:
        if not self.tokens:
            raise ValueError("no input was seen")
        return self.total / self.tokens


def output_error(weight: Tensor, rounded: Tensor, hessian: Tensor) -> Tensor:
    """Mean squared output error per token of each row, δ·H·δᵀ: (out,) in double precision."""
    gap = (rounded - weight).double()
    return ((gap @ hessian.double()) * gap).sum(1)


def gptq(
    weight: Tensor,
    hessian: Tensor,
    scale: Tensor,
    zero: Tensor,
    grid: Grid,
    *,
    damping: float,
    act_order: bool,
) -> Tensor:
    """Codes of a weight on a given grid, never worse than rounding to the nearest.

    Steps and zero points stay as they are, whether learned, searched or plain, so groups are
    static and the order of the columns is free. GPTQ is greedy: now and then a row ends worse than
    it would by plain rounding, and then plain rounding is what the row gets.

    Args:
        weight: (out, in), transformed.
        hessian: H, (in, in).
        scale, zero: (out, G), G groups of neighbouring columns, or (1, 1), as of `grids.steps`.
        damping: added to H's diagonal, as a share of its mean (0.01 in the paper).
        act_order: round columns of large H_jj first, while there are others left to make up for
            them.

    Returns:
        Codes as of `grids.encode`: (out, in).

    Raises:
        ValueError: H with its damping is not positive definite.
    """
    weight = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    hessian = hessian.to(weight.device)
    steps, zeros = (_by_column(part, weight.shape) for part in (scale, zero))
    order = torch.arange(weight.shape[1], device=weight.device)
    if act_order:
        order = hessian.diagonal().argsort(descending=True, stable=True)
    factor = _factor(hessian[order][:, order], damping).to(weight.dtype)
    nearest = encode(weight, steps, zeros, grid)
    codes = nearest.clone()
    codes[:, order] = _sweep(weight[:, order], factor, steps[:, order], zeros[:, order], grid)
    error, plain = (
        output_error(weight, decode(c, steps, zeros), hessian) for c in (codes, nearest)
    )
    return torch.where((error <= plain)[:, None], codes, nearest)


def hessians(layers: Mapping[str, QuantLinear], run: Callable[[], object]) -> dict[str, Tensor]:
    """H of the inputs that each layer's weight meets while `run` runs the model.

    They are transformed and, where the layer's inputs are switched on, quantized.

    Raises:
        ValueError: `run` does not call a layer.
    """
    found = {name: Hessian(y.in_features, y.weight.device) for name, y in layers.items()}

    def see(name: str, x: Tensor) -> None:
        found[name].add(layers[name].given(x))

    with watching(layers, see), torch.no_grad():
        run()
    if missing := sorted(name for name, hessian in found.items() if not hessian.tokens):
        raise ValueError(f"no input was seen of {missing}")
    return {name: hessian.matrix for name, hessian in found.items()}


@torch.no_grad()
def fix_by_gptq(layer: QuantLinear, hessian: Tensor, *, damping: float, act_order: bool) -> None:
    """Fix a layer at GPTQ's codes of its transformed weight, with the steps that it has now."""
    _, scale, zero = layer.codes()
    codes = gptq(
        layer.target(), hessian, scale, zero, layer.weights.grid, damping=damping,
        act_order=act_order,
    )  # fmt: skip
    layer.fix(Codes(codes, scale, zero))


def _sweep(weight: Tensor, factor: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """Codes, column after column; `factor` is the upper Cholesky factor of the inverse of H."""
    work = weight.clone()
    columns = []
    for start in range(0, work.shape[1], BLOCK):
        stop = min(start + BLOCK, work.shape[1])
        errors = torch.zeros_like(work[:, start:stop])
        for j in range(start, stop):
            here = slice(j, j + 1)
            code = encode(work[:, here], scale[:, here], zero[:, here], grid)
            gap = work[:, here] - decode(code, scale[:, here], zero[:, here])
            error = gap / factor[j, j]
            work[:, j:stop] -= error * factor[j, j:stop]
            errors[:, j - start] = error[:, 0]
            columns.append(code)
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    return torch.cat(columns, 1)


def _factor(hessian: Tensor, damping: float) -> Tensor:
    """U, upper triangular, with Uᵀ·U = (H + damping)⁻¹: row j holds what column j owes the rest."""
    damped = hessian.double().clone()
    damped.diagonal().add_(damping * hessian.double().diagonal().mean())
    lower, failed = torch.linalg.cholesky_ex(damped)
    if int(failed):
        raise ValueError(
            f"H is not positive definite with damping {damping}: raise it, or give more samples"
        )
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return upper


def _by_column(part: Tensor, shape: torch.Size) -> Tensor:
    """Steps or zero points (out, G) or (1, 1) as (out, in): a value a column."""
    groups = part.shape[1]
    if shape[1] % groups:
        raise ValueError(f"{groups} groups do not divide {shape[1]} columns")
    return part.detach().expand(shape[0], groups).repeat_interleave(shape[1] // groups, 1)
