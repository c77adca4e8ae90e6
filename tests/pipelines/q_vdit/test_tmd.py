"""Temporal maintenance: closed forms, limits, and the two readings of the release."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipelines.q_vdit.released import scrambled
from pipelines.q_vdit.tmd import Objective, Temporal, divergence, similarity, temporal_loss
from tests.pipelines.q_vdit.small import drawn

SHAPE = (2, 4, 3, 5, 5)


def spec(**changes: Any) -> Temporal:
    return Temporal.model_validate({"weight": 1.0, "reduction": "sum", "frames": "axis"} | changes)


def test_similarities_are_cosines_of_whole_frames() -> None:
    x = drawn(*SHAPE)
    found = similarity(x.flatten(2))
    for b in range(2):
        for i in range(4):
            for j in range(4):
                a, c = x[b, i].flatten(), x[b, j].flatten()
                torch.testing.assert_close(found[b, i, j], a @ c / (a.norm() * c.norm()))
    torch.testing.assert_close(found.diagonal(dim1=1, dim2=2), torch.ones(2, 4))


def test_the_gradient_is_the_difference_of_the_distributions() -> None:
    """Equation 17, simplified by the sum of D being one."""
    wanted = similarity(drawn(*SHAPE).flatten(2))
    found = similarity(drawn(*SHAPE, seed=1).flatten(2)).requires_grad_()
    divergence(found, wanted).sum().backward()
    assert found.grad is not None
    torch.testing.assert_close(found.grad, found.softmax(-1) - wanted.softmax(-1))


def test_the_loss_by_its_letter() -> None:
    output, target = drawn(*SHAPE), drawn(*SHAPE, seed=1)
    total = 0.0
    for b in range(2):
        ours, theirs = (similarity(x[b : b + 1].flatten(2))[0] for x in (output, target))
        for i in range(4):
            p, q = theirs[i].softmax(0), ours[i].softmax(0)
            total += float((p * (p / q).log()).sum())
    torch.testing.assert_close(temporal_loss(output, target, spec()), torch.tensor(total / 2))


def test_the_released_weight_of_100_is_100_over_the_square_of_frames_for_the_sum() -> None:
    output, target = drawn(*SHAPE), drawn(*SHAPE, seed=1)
    mean = temporal_loss(output, target, spec(weight=100.0, reduction="mean"))
    total = temporal_loss(output, target, spec(weight=100.0 / 4**2))
    torch.testing.assert_close(mean, total)


def test_the_released_mean_is_that_of_torch() -> None:
    output, target = (similarity(drawn(*SHAPE, seed=k).flatten(2)) for k in (0, 1))
    released = torch.nn.functional.kl_div(  # "mean", which warns that it will change
        output.log_softmax(-1), target.softmax(-1), reduction="none"
    ).mean()
    ours = divergence(output, target).mean() / 4**2
    torch.testing.assert_close(ours, released)


def test_it_is_zero_at_the_teacher_blind_to_each_frame_s_size_and_never_negative() -> None:
    target = drawn(*SHAPE)
    torch.testing.assert_close(temporal_loss(target, target, spec()), torch.tensor(0.0))
    loud = target * torch.tensor([1.0, 2.0, 3.0, 4.0])[None, :, None, None, None]
    assert float(temporal_loss(loud, target, spec())) == pytest.approx(0, abs=1e-6)
    for seed in range(1, 6):
        assert temporal_loss(drawn(*SHAPE, seed=seed), target, spec()) > 0


def test_the_divergence_of_frames_that_share_nothing_from_a_still_clip() -> None:
    """Trap 2(f)-3. No temperature, and the diagonal counts: a row of the still clip is uniform; of
    frames at right angles it is e on the diagonal and 1 beside it, over e + T - 1.
    """
    frames = 16
    apart = torch.eye(frames)[None]
    still = torch.ones(1, frames, frames)
    found = divergence(similarity(apart), similarity(still)) / frames
    wanted = math.log((math.e + frames - 1) / frames) - 1 / frames
    torch.testing.assert_close(found, torch.tensor([wanted]))
    assert wanted < 0.04, "as far apart as clips can be, and hardly anything: hence γ = 100"


def test_scrambled_frames_are_other_frames() -> None:
    output, target = drawn(*SHAPE), drawn(*SHAPE, seed=1)
    right = temporal_loss(output, target, spec())
    wrong = temporal_loss(output, target, spec(frames="scrambled"))
    assert not torch.isclose(right, wrong)
    cut = [similarity(scrambled(x)) for x in (output, target)]
    torch.testing.assert_close(wrong, divergence(*cut).mean())


def test_permuting_frames_on_both_sides_changes_nothing() -> None:
    output, target = drawn(*SHAPE), drawn(*SHAPE, seed=1)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = temporal_loss(output[:, order], target[:, order], spec())
    torch.testing.assert_close(shuffled, temporal_loss(output, target, spec()))


def test_the_objective_adds_the_weighted_term_to_the_squared_error() -> None:
    output, target, no = drawn(*SHAPE), drawn(*SHAPE, seed=1), torch.arange(2)
    plain = Objective(None)(output, target, no)
    torch.testing.assert_close(plain, (output - target).square().mean())
    term = spec(weight=7.0)
    both = Objective(term)(output, target, no)
    torch.testing.assert_close(both, plain + 7 * temporal_loss(output, target, spec()))
