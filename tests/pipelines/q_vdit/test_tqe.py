"""The token-aware estimator against its equations."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from pipelines.q_vdit.places import Place
from pipelines.q_vdit.tqe import TokenAware, first_gain
from stages.quantize import clip, grids
from stages.quantize.grids import Grid
from tests.pipelines.q_vdit.small import drawn

FRAMES, SPOTS, IN, OUT = 3, 5, 6, 4


def branch(place: Place, gained: bool = True) -> TokenAware:
    generator = torch.Generator().manual_seed(0)
    frames = FRAMES if gained else None
    return TokenAware(IN, OUT, frames=frames, place=place, generator=generator)


def filled(place: Place) -> TokenAware:
    made = branch(place)
    assert made.gain is not None
    made.beta.data = drawn(OUT, seed=1)
    made.gain.data = drawn(FRAMES, seed=2)
    return made


def test_it_is_silent_at_first_and_its_output_factor_learns_first() -> None:
    made = branch("rows")
    y = made(drawn(2 * FRAMES, SPOTS, IN))
    assert y.shape == (2 * FRAMES, SPOTS, OUT) and not y.any()
    y.square().sum().backward()
    (made(drawn(2 * FRAMES, SPOTS, IN)) - 1).square().sum().backward()
    assert made.alpha.grad is not None and not made.alpha.grad.any()
    assert made.beta.grad is not None and made.beta.grad.abs().min() > 0
    assert made.alpha.abs().max() <= 1 / math.sqrt(IN) and made.alpha.std() > 0.1


def test_equation_8_frame_by_frame() -> None:
    clips = drawn(2, FRAMES, SPOTS, IN)
    made = filled("rows")
    assert made.gain is not None
    wanted = torch.zeros(2, FRAMES, SPOTS, OUT)
    for b in range(2):
        for i in range(FRAMES):
            along = (made.gain[i] * clips[b, i]) @ made.alpha
            wanted[b, i] = torch.outer(along, made.beta)
    rows = made(clips.flatten(0, 1)).unflatten(0, (2, FRAMES))
    torch.testing.assert_close(rows, wanted)
    tokens = filled("tokens")(clips.transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(tokens.unflatten(0, (2, SPOTS)).transpose(1, 2), wanted)


def test_without_a_gain_it_is_a_branch_of_rank_one() -> None:
    made = branch("rows", gained=False)
    made.beta.data = drawn(OUT, seed=1)
    x = drawn(2 * FRAMES, SPOTS, IN)
    torch.testing.assert_close(made(x), x @ torch.outer(made.alpha, made.beta))
    ones = filled("rows")
    assert ones.gain is not None
    ones.gain.data.fill_(1.0)
    torch.testing.assert_close(ones(x), made(x))


def test_it_costs_in_plus_out_plus_frames() -> None:
    assert sum(p.numel() for p in branch("tokens").parameters()) == IN + OUT + FRAMES
    with pytest.raises(ValueError, match="no gain"):
        branch("nowhere")


def test_gradients_agree_with_differences() -> None:
    made = filled("tokens").double()
    x = drawn(2 * SPOTS, FRAMES, IN).double().requires_grad_()
    assert torch.autograd.gradcheck(made, (x,))


def test_equation_9_by_its_letter() -> None:
    x = drawn(2 * FRAMES, SPOTS, IN)
    rounded = (2 * x).round() / 2
    found = first_gain(x, rounded, FRAMES, "rows", 2)
    for sample in range(2):
        frames = x.unflatten(0, (2, FRAMES))[sample].double().flatten(1)
        other = rounded.unflatten(0, (2, FRAMES))[sample].double().flatten(1)
        rho = torch.stack(
            [a @ b / (a.norm() * b.norm()) for a, b in zip(frames, other, strict=True)]
        )
        eta = (1 - rho).exp() / (1 - rho).exp().sum()
        omega = frames.abs().sum(1) / frames.abs().sum()
        torch.testing.assert_close(found[sample].double(), eta / omega)


def test_equal_frames_have_a_gain_of_one_and_a_loud_one_a_small_gain() -> None:
    frame = drawn(1, SPOTS, IN)
    same = frame.expand(FRAMES, -1, -1)
    found = first_gain(same, same, FRAMES, "rows", 1)
    torch.testing.assert_close(found, torch.ones(1, FRAMES))
    loud = same * torch.tensor([1.0, 1.0, 2.0])[:, None, None]
    gain = first_gain(loud, loud, FRAMES, "rows", 1)[0]
    torch.testing.assert_close(gain, torch.tensor([4 / 3, 4 / 3, 2 / 3]))


def test_a_frame_of_zeros_has_a_gain_of_one() -> None:
    x = drawn(FRAMES, SPOTS, IN)
    x[1] = 0
    gain = first_gain(x, x, FRAMES, "rows", 1)
    assert gain.isfinite().all() and gain[0, 1] == 1
    assert (first_gain(torch.zeros_like(x), x, FRAMES, "rows", 1) == 1).all()


def test_the_gain_of_a_clip_does_not_depend_on_its_neighbours() -> None:
    x = drawn(2 * SPOTS, FRAMES, IN)
    both = first_gain(x, x.round(), FRAMES, "tokens", 2)
    alone = first_gain(x[:SPOTS], x[:SPOTS].round(), FRAMES, "tokens", 1)
    torch.testing.assert_close(both[:1], alone)


def test_quantization_error_is_nearly_white() -> None:
    """So no branch of rank one can take much of W - Q(W) away, and none here promises it."""
    weight = drawn(256, 128)
    grid = Grid(bits=3, symmetric=False, granularity="channel", group=None, dynamic=True)
    ratio = clip.search(weight, grid, 2.0)
    error = weight - grids.fake(
        weight, *grids.steps(*grids.extent(weight, grid, ratio), grid), grid
    )
    energy = torch.linalg.svdvals(error).square()
    assert energy[0] / energy.sum() < 0.05
    assert functional.cosine_similarity(error.flatten(), weight.flatten(), dim=0) < 0.5
