"""Which steps of which trajectories a network is calibrated on.

Every denoising step of every candidate prompt is a member of the pool. Two things are measured of
a member: how far the sampler moves in it, and how large an error of the weights becomes on it
(S²Q-VDiT, arXiv 2508.04016, section 3.2). x_t are the network's own inputs, latents as patch
tokens, and not activations of some layer: the published cost of the second measure, half a second
beside 7.7 minutes of sampling, leaves room for one Gram matrix a step [inferred].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from stages.core.errors import UserError
from stages.core.seeding import seed_of

Selection = Literal["sds", "ds", "qs", "atop", "atfp", "rtfp", "random"]
"""`sds` by both measures, `ds` by the first, `qs` by the second; `atop` all steps of one prompt,
`atfp` of five, `rtfp` random steps of five (as the paper's table 6 calls them); `random` members of
the whole pool, which is ours."""

Norm = Literal["spectral", "frobenius", "centred"]
"""`centred`, ours, is the spectral norm without the tokens' mean: how much a sample varies and not
how bright it is."""

PROMPTS = {"atop": 1, "atfp": 5, "rtfp": 5}
"""Of how many prompts, drawn at random, these selections take steps."""

Member = tuple[int, int]
"""Number of a candidate prompt and of a step; step 0 is the sampler's first, pure noise."""


def movement(states: Tensor) -> Tensor:
    """C_diff = |x_t - x_{t-1}|² / |x_t|² (equation 3), x_{t-1} being the state after the step.

    The last step has no further input to be compared with, and is no member.

    Args:
        states: inputs of S steps in the sampler's order, (P, S, …).

    Returns:
        (P, S - 1) in double precision.
    """
    flat = states.flatten(2).double()
    here, there = flat[:, :-1], flat[:, 1:]
    return (here - there).square().sum(2) / here.square().sum(2)


def sensitivity(tokens: Tensor, norm: Norm) -> Tensor:
    """C_quant = ‖x_tᵀ·x_t‖ (equation 6): what an error Δ of a weight costs is Δ·(XᵀX)·Δᵀ.

    The paper writes ‖·‖₂ of a matrix. `spectral` is its largest eigenvalue, the worst case over
    errors of one size [inferred]; `frobenius` the root of its entries' squares. The largest
    eigenvalue of tokens that have a mean is mostly the mean's: `centred` takes it away first.

    Args:
        tokens: (…, n, d).

    Returns:
        (…) in double precision.
    """
    wide = tokens.double()
    if norm == "centred":
        wide = wide - wide.mean(-2, keepdim=True)
    gram = wide.mT @ wide
    if norm == "frobenius":
        return gram.flatten(-2).norm(dim=-1)
    return torch.linalg.eigvalsh(gram)[..., -1]


def scaled(values: Tensor) -> Tensor:
    """Min-max over the whole pool (equation 7): the smallest is 0, the largest 1.

    So the least member by either measure has a product of exactly 0, and one extreme member brings
    all others together near 0. The paper has no remedy for that, and neither have we.

    Raises:
        UserError: all values are one.
    """
    low, high = torch.aminmax(values)
    if not bool(high > low):
        raise UserError(
            "all members of the pool have the same salience, so none can be preferred; "
            "the teacher gives the same for every prompt and step"
        )
    return (values - low) / (high - low)


def choose(
    how: Selection, diff: Tensor, quant: Tensor, count: int, *names: int | str
) -> list[Member]:
    """The members of a calibration set, sorted.

    Nothing keeps `sds`, `ds` and `qs` from neighbouring steps of one prompt: the paper takes the
    largest N (equation 8) and no more is done here.

    Args:
        diff, quant: C_diff and C_quant of all members, (P, S).
        count: N.
        names: what is drawn at random depends on these.

    Raises:
        UserError: the selection has fewer members to choose from.
    """
    prompts, steps = diff.shape
    taken = PROMPTS.get(how, prompts)
    if taken > prompts or count > taken * steps:
        raise UserError(
            f"params.yaml: the selection '{how}' cannot give {count} samples: the pool has "
            f"{prompts} prompts of {steps} steps; raise s2q_vdit.calibrate.prompts or the sampling "
            "steps, or lower s2q_vdit.calibrate.count"
        )
    if how in ("sds", "ds", "qs"):
        value = {"ds": scaled(diff), "qs": scaled(quant), "sds": scaled(diff) * scaled(quant)}[how]
        order = value.flatten().argsort(descending=True, stable=True)
        return sorted(divmod(place, steps) for place in order[:count].tolist())
    generator = torch.Generator().manual_seed(seed_of("selection", how, *names))
    drawn = torch.randperm(prompts, generator=generator)[:taken].tolist()
    if how in ("atop", "atfp"):
        return sorted(_dealt(drawn, steps, count))
    order = torch.randperm(taken * steps, generator=generator)[:count]
    return sorted((drawn[place // steps], place % steps) for place in order.tolist())


def _dealt(prompts: Sequence[int], steps: int, count: int) -> list[Member]:
    """`count` steps as evenly over time as they go, dealt to the prompts in turn [inferred]."""
    whole, rest = divmod(count, steps)
    times = list(range(steps)) * whole + [(2 * k + 1) * steps // (2 * rest) for k in range(rest)]
    dealt: list[Member] = []
    for step in sorted(times):
        free = [prompt for prompt in prompts if (prompt, step) not in dealt]
        given = [prompt for prompt, _ in dealt]
        dealt.append((min(free, key=given.count), step))
    return dealt
