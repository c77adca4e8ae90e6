"""How much each token counts in a block's loss: more, the more attention it gets.

    λ_j = (S_j - min S) / (max S - min S) · (λ_max - λ_min) + λ_min     (S²Q-VDiT, equation 11)

with λ_max = 1, by sample. Attention is unevenly spread, so nearly all λ are close to λ_min and a
few near 1: with λ_min = 1/2 a few tokens count twice.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipelines.s2q_vdit.nets import of_text, of_video
from stages.quantize.reconstruct import Loss, weighted_error

Text = Literal["out", "apart", "together"]
"""What becomes of the text's tokens, of which the paper does not speak: they are left out of the
loss; are in it with λ from their own extremes (our default: a video token's weight then does not
hang on how much attention the text draws); or share the video's."""

ALIKE = 1e-5
"""Spread of S, as a share of its maximum, below which all tokens get the same attention."""


def weights(received: Tensor, least: float) -> Tensor:
    """λ of equation 11, in [least, 1]; 1 for all tokens where all get the same attention.

    Args:
        received: S, (…, n).
        least: λ_min.
    """
    low, high = torch.aminmax(received, dim=-1, keepdim=True)
    uneven = high - low > ALIKE * high
    share = (received - low) / torch.where(uneven, high - low, 1.0)
    return torch.where(uneven, share * (1 - least) + least, 1.0)


def with_text(received: Tensor, video: int, least: float, text: Text) -> Tensor:
    """λ of a block's tokens, the video's first.

    Args:
        received: (R, n + L), the video's tokens first.
        video: n.

    Returns:
        (R, n) with text `out`, else (R, n + L).
    """
    if text == "together":
        return weights(received, least)
    first = weights(received[:, :video], least)
    if text == "out" or received.shape[1] == video:
        return first
    return torch.cat([first, weights(received[:, video:], least)], 1)


def loss(weighing: Tensor | None, text: Text) -> Loss:
    """Σ_j λ_j |y_j - ŷ_j|² (equation 10), as a mean over tokens and channels.

    Args:
        weighing: λ by sample, (R, tokens), or None: all alike, the plain mean squared error.
    """

    def value(output: object, target: object, samples: Tensor) -> Tensor:
        own = None
        if weighing is not None:
            own = weighing[samples.to(weighing.device)].to(of_video(output).device)
        return weighted_error(joined(output, text), joined(target, text), own)

    return value


def joined(output: object, text: Text) -> Tensor:
    """What a block gives as one sequence (B, tokens, d), the video first."""
    video, words = of_video(output), of_text(output)
    if words is None or text == "out":
        return video
    return torch.cat([video, words], 1)


def concentration(received: Tensor) -> dict[str, float]:
    """How unevenly attention is spread, mean over samples.

    Args:
        received: S of the video's tokens, (R, n).

    Returns:
        `gini`: of S, 0 where all get the same. `top_tenth`: share of all attention that the tenth
        of the tokens with the most gets; of the published networks the paper says most of it.
    """
    ranked = received.double().sort(-1, descending=True).values
    count = ranked.shape[-1]
    share = ranked / ranked.sum(-1, keepdim=True)
    places = torch.arange(1, count + 1, dtype=torch.float64)
    gini = (count + 1 - 2 * (share * places).sum(-1)) / count
    top = share[:, : max(1, round(count / 10))].sum(-1)
    return {"gini": float(gini.mean()), "top_tenth": float(top.mean())}
