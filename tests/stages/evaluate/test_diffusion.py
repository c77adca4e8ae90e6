"""Teacher-forced and free-running errors against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stages.evaluate.diffusion import (
    LIMIT_DB,
    MOST,
    Divergence,
    Recorder,
    Walk,
    decibels,
    fidelity,
    forced,
    share,
)

TIMES = (9, 6, 3, 0)
ALPHAS = torch.linspace(1.0, 0.0, 10).double()  # noise alone at time 9, no noise at time 0
Denoiser = Callable[[Tensor, Tensor], Tensor]


def noise(count: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, 1, 6, 6, generator=generator)


def teacher(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x) + 0.1 * t + 0.3


def sampled(start: Tensor, denoiser: Denoiser, observe: Callable[..., None]) -> Tensor:
    x = start
    for number, t in enumerate(torch.tensor(TIMES)):
        out = denoiser(x, t)
        observe(number, t, x, out)
        x = 0.5 * x - 0.25 * out[-len(x) :]
    return x


def walked(start: Tensor, denoiser: Denoiser = teacher) -> Walk:
    kept = Recorder(ALPHAS, 1.0)
    return kept.walk(sampled(start, denoiser, kept))


def test_a_walk_is_kept_as_it_was() -> None:
    seen: list[tuple[int, Tensor]] = []
    walk = walked(noise())
    end = sampled(noise(), teacher, lambda number, t, x, out: seen.append((int(t), x)))
    assert tuple(walk.times.tolist()) == TIMES == tuple(t for t, _ in seen)
    assert torch.equal(walk.states, torch.stack([x for _, x in seen]))
    assert torch.equal(walk.end, end)
    torch.testing.assert_close(walk.levels, torch.tensor([0, 1 / 3, 2 / 3, 1]).double())


def test_both_branches_are_combined_as_guidance_does() -> None:
    def both(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([teacher(x, t), 2 * teacher(x, t)])

    kept = Recorder(ALPHAS, 3.0)
    walk = kept.walk(sampled(noise(), both, kept))
    expected = teacher(walk.states[1], walk.times[1])
    torch.testing.assert_close(walk.predictions[1], expected * (1 + 3 * (2 - 1)))


def test_a_skipped_step_is_refused() -> None:
    kept = Recorder(ALPHAS, 1.0)
    with pytest.raises(ValueError, match="step 1 follows step -1"):
        kept(1, torch.tensor(9), noise(), noise())


@pytest.mark.parametrize("db", [-7.0, 0.0, 12.5, 60.0])
def test_a_known_error_has_its_decibels(db: float) -> None:
    wrong = forced(walked(noise()), lambda x, t: teacher(x, t).double() * (1 + 10 ** (-db / 20)))
    torch.testing.assert_close(wrong.prediction, torch.full((4, 3), db).double())


def test_the_noise_is_that_of_v() -> None:
    walk = walked(noise())

    def student(x: Tensor, t: Tensor) -> Tensor:
        return teacher(x, t) + 0.05 * torch.cos(7 * x)

    found = forced(walk, student)
    for step, level in enumerate(ALPHAS[list(TIMES)].tolist()):
        if level == 0:
            assert found.noise[step].isnan().all()
            continue
        x = walk.states[step].double()
        v, guess = walk.predictions[step].double(), student(walk.states[step], walk.times[step])
        true = math.sqrt(level) * v + math.sqrt(1 - level) * x
        error = math.sqrt(level) * (guess.double() - v)
        expected = 10 * (true.flatten(1).norm(dim=1) / error.flatten(1).norm(dim=1)).log10() * 2
        torch.testing.assert_close(found.noise[step], expected)
    torch.testing.assert_close(found.noise[-1], found.prediction[-1])  # ᾱ = 1: noise is v
    means = found.means()
    torch.testing.assert_close(means["noise"], found.noise[1:].mean(0))
    torch.testing.assert_close(means["prediction"], found.prediction.mean(0))


def test_every_step_sees_full_precisions_state() -> None:
    walk, seen = walked(noise()), []

    def student(x: Tensor, t: Tensor) -> Tensor:
        seen.append((int(t), x))
        return 0 * x + 5

    forced(walk, student)
    assert [t for t, _ in seen] == list(TIMES)
    assert torch.equal(torch.stack([x for _, x in seen]), walk.states)


def test_a_clips_value_does_not_depend_on_its_neighbours() -> None:
    start = noise(5)

    def student(x: Tensor, t: Tensor) -> Tensor:
        return teacher(x, t) + 0.1 * x

    together = forced(walked(start), student).prediction
    alone = forced(walked(start[2:3]), student).prediction
    torch.testing.assert_close(together[:, 2:3], alone)
    assert together.std(1).min() > 0


def test_the_limits_are_equality_and_ruin() -> None:
    def ruined(x: Tensor, t: Tensor) -> Tensor:
        out = teacher(x, t).clone()
        out[1, 0, 0, 0, 0] = torch.nan
        out[2, 0, 0, 0, 0] = torch.inf
        return out

    found = forced(walked(noise()), ruined).prediction
    assert found[:, 0].tolist() == [LIMIT_DB] * 4
    assert found[:, 1:].flatten().tolist() == [-LIMIT_DB] * 8


def test_shares_refuse_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="differ"):
        share(noise(2), noise(3))
    with pytest.raises(ValueError, match="zero or not finite"):
        share(torch.zeros(1, 4), torch.ones(1, 4))
    assert share(torch.full((1, 4), 1e-30), torch.ones(1, 4)).item() == MOST
    assert decibels(torch.tensor([0.01, torch.nan])).nan_to_num(-1).tolist() == [20.0, -1.0]


def test_free_walks_part_as_they_do() -> None:
    """With out = c·x a step multiplies by 0.5 - 0.25 c, so the parting has a closed form."""
    walk = walked(noise(), lambda x, t: 1.0 * x)
    apart = Divergence(walk)
    found = apart.steps(sampled(noise(), lambda x, t: 0.6 * x, apart))
    assert found.shape == (5, 3) and not found[0].any()
    ratio = torch.tensor(0.35 / 0.25).double()
    expected = (ratio ** torch.arange(5) - 1).square()[:, None].expand(5, 3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_the_same_denoiser_stays_beside_itself() -> None:
    apart = Divergence(walked(noise()))
    assert not apart.steps(sampled(noise(), teacher, apart)).any()


def test_another_walk_is_refused() -> None:
    walk = walked(noise())
    with pytest.raises(ValueError, match="different noise"):
        Divergence(walk)(0, torch.tensor(9), noise(seed=1), noise())
    with pytest.raises(ValueError, match="no step of the recorded walk"):
        Divergence(walk)(0, torch.tensor(8), noise(), noise())
    with pytest.raises(ValueError, match="0 of 4 steps"):
        Divergence(walk).steps(noise())


def test_fidelity_of_a_shift_has_a_closed_form() -> None:
    clips = noise(2).clamp(-1, 1)
    found = fidelity(clips + 0.02, clips, 2.0)
    assert found["psnr"].frames.shape == (2, 4)
    torch.testing.assert_close(found["psnr"].whole, torch.full((2,), 40.0).double(), rtol=1e-5,
                               atol=1e-4)  # fmt: skip
    same = fidelity(clips, clips, 2.0)
    assert same["ssim"].whole.tolist() == pytest.approx([1, 1])
    assert (found["ssim"].whole < 1).all()


def test_fidelity_refuses_what_are_no_clips() -> None:
    with pytest.raises(ValueError, match="no pair"):
        fidelity(noise(2), noise(3), 2.0)
    with pytest.raises(ValueError, match="not finite"):
        fidelity(noise() * torch.nan, noise(), 2.0)
