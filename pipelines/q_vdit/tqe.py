"""The token-aware quantization estimator: a rank-1 branch whose gain differs by frame.

    X·Wᵀ ≈ Q(X)·Q(W)ᵀ + Δ·β,   Δ_frame i = (M_i · Q(X)_frame i)·α          (equation 8)

α (in,) starts at random, β (out,) at zero and M (T,) at the frames' measured errors over their
shares of the activation (equation 9), so that the branch gives nothing at first. It costs
in + out + T numbers a layer. With M = 1 it is a low-rank branch beside the layer (equation 7).

It does not undo Δ = W - Q(W) as a matrix: uniform quantization error is nearly white, and its first
singular direction holds a few per cent of it (a test). What it can learn is what its loss asks for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.q_vdit.places import Place, scaled, slabs


class TokenAware(nn.Module):
    """(rows, n, in) -> (rows, n, out), the branch `beside` a quantized layer.

    Attributes:
        alpha: (in,); beta: (out,).
        gain: M, (T,), or None: all frames alike.
        place: where frames lie in the inputs.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        frames: int | None,
        place: Place,
        generator: torch.Generator,
    ) -> None:
        """α is drawn by Kaiming's rule, uniform in ±1/√in; β is 0, M is 1.

        Args:
            frames: T, or None for a branch without M; layers whose frames are nowhere have none.
        """
        super().__init__()
        if frames is not None and place == "nowhere":
            raise ValueError("a layer that sees no frames has no gain by frame")
        bound = 1 / math.sqrt(inputs)
        start = torch.rand(inputs, generator=generator) * 2 * bound - bound
        self.alpha = nn.Parameter(start)
        self.beta = nn.Parameter(torch.zeros(outputs))
        self.gain = None if frames is None else nn.Parameter(torch.ones(frames))
        self.place: Place = place

    def forward(self, x: Tensor) -> Tensor:
        along = x @ self.alpha.to(x.dtype)
        factor = self.factor()
        if factor is not None:
            along = scaled(along, factor.to(x.dtype), self.place)
        return along[..., None] * self.beta.to(x.dtype)

    def factor(self) -> Tensor | None:
        """What every frame is multiplied by, (T,); None where all frames are alike."""
        return self.gain


def first_gain(x: Tensor, quantized: Tensor, frames: int, place: Place, samples: int) -> Tensor:
    """M of equation 9 for each clip: (samples, T).

        η = softmax_i(1 - ρ(X_i, Q(X)_i)),   ω_i = Σ|X_i| / Σ|X|,   M_i = η_i / ω_i

    ρ is the cosine [inferred: the paper calls it a similarity]. At 6 and 8 bits 1 - ρ is small
    beside one, so that η is nearly 1/T and M nearly the reciprocal of the frame's share.

    Args:
        x: the layer's inputs (rows, n, in); quantized: the same after Q.

    Returns:
        Mean of M over frames need not be one; a frame that is all zero, for which M has no
        effect, has 1.
    """
    true, rounded = (slabs(part, frames, place, samples).double() for part in (x, quantized))
    near = functional.cosine_similarity(true, rounded, dim=-1)
    eta = torch.softmax(1 - near, -1)
    size = true.abs().sum(-1)
    omega = size / size.sum(-1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    empty = omega == 0
    return torch.where(empty, 1.0, eta / omega.masked_fill(empty, 1.0)).float()
