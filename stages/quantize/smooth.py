"""Scales that move the difficulty of outlier channels from activations to weights.

Every function gives c of shape (in,): activations are divided by it, the weight's columns are
multiplied by it, and the product stays (`stages.quantize.transforms.Diagonal`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from stages.quantize.capture import watching
from stages.quantize.layers import QuantLinear


class ChannelMaximum:
    """The largest magnitude of each channel over all tokens that were seen.

    Attributes:
        momentum: None for the maximum over all batches. Else the share that the old value keeps in
            a running mean of the batches' maxima (0.95 in the released code of ViDiT-Q), which one
            extreme batch cannot decide.
        value: (in,); None before the first batch.
    """

    def __init__(self, momentum: float | None = None) -> None:
        if momentum is not None and not 0 <= momentum < 1:
            raise ValueError(f"momentum {momentum} is not in [0, 1)")
        self.momentum = momentum
        self.value: Tensor | None = None

    def add(self, inputs: Tensor) -> None:
        """Take in a batch (…, in)."""
        found = inputs.detach().flatten(0, -2).abs().amax(0).float()
        if self.value is None:
            self.value = found
        elif self.momentum is None:
            self.value = torch.maximum(self.value, found)
        else:
            self.value = self.momentum * self.value + (1 - self.momentum) * found


def maxima(
    modules: Mapping[str, nn.Module], run: Callable[[], object], momentum: float | None = None
) -> dict[str, Tensor]:
    """`ChannelMaximum` of each module's inputs while `run` runs the model: name -> (in,).

    Of a quantized layer they are the transformed inputs: a scale may come after a rotation.

    Raises:
        ValueError: `run` does not call a module.
    """
    found = {name: ChannelMaximum(momentum) for name in modules}

    def see(name: str, x: Tensor) -> None:
        module = modules[name]
        found[name].add(module.prepared(x) if isinstance(module, QuantLinear) else x)

    with watching(modules, see), torch.no_grad():
        run()
    tops = {name: top.value for name, top in found.items() if top.value is not None}
    if missing := sorted(found.keys() - tops.keys()):
        raise ValueError(f"no input was seen of {missing}")
    return tops


def smooth_scales(salience: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """c_j = max|X_j|^α / max|W_j|^(1-α) (SmoothQuant, arXiv 2211.10438, equation 4).

    With α = 1/2 both sides come to the same maximum √(max|X_j|·max|W_j|); with α = 1 activations
    come to 1, with α = 0 the weight's columns do.

    Args:
        salience: (in,) max|X_j|.
        weight: (out, in); of linears that share one input, stacked along `out`.

    Returns:
        (in,); 1 for a channel that is zero on either side, where every scale is as good.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} is not in [0, 1]")
    column = weight.detach().abs().amax(0).to(salience.dtype)
    alive = (salience > 0) & (column > 0)
    one = torch.ones_like(salience)
    x, w = torch.where(alive, salience, one), torch.where(alive, column, one)
    return x.pow(alpha) / w.pow(1 - alpha)


def balance_scales(salience: Tensor, weight: Tensor) -> Tensor:
    """Scales that make both sides' salience meet in its geometric mean (after PTQ4DiT).

    PTQ4DiT (arXiv 2405.16005) writes them as two diagonal matrices √(s_X·s_W)/s_X and
    √(s_X·s_W)/s_W, whose product is 1. The salience of activations is a mean over time steps by
    `step_weights`; what that paper does besides, block-wise calibration, is not here.

    Args:
        salience: (T, in) max|X_j| at each of T time steps.
        weight: (out, in).
    """
    shares = step_weights(salience, weight.detach().abs().amax(0))
    return smooth_scales(shares @ salience, weight, 0.5)


def step_weights(salience: Tensor, column: Tensor) -> Tensor:
    """softmax of -ρ_t over time steps, ρ_t Spearman's correlation of salience with the weight's.

    The steps whose activations are large where the weight is small count most: there a scale has
    most to move. The exponential is [inferred].

    Args:
        salience: (T, in).
        column: (in,) max|W_j|.

    Returns:
        (T,), positive, of sum 1.
    """
    rho = torch.stack([spearman(row, column) for row in salience])
    return torch.softmax(-rho, 0).to(salience.dtype)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Rank correlation of two (n,): a scalar in double precision; 0 where one of them is constant.

    Ties share the mean of their ranks.
    """
    a, b = (_ranks(values) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    norm = a.norm() * b.norm()
    return torch.where(norm > 0, (a @ b) / norm.clamp(min=1e-300), torch.zeros_like(norm))


def _ranks(values: Tensor) -> Tensor:
    _, place, count = values.unique(sorted=True, return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count - 1) / 2)[place]
