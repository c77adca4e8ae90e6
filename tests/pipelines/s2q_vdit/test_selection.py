"""Salience of steps, and who is chosen by it: the notes' traps 1 to 4."""

import pytest
import torch

from pipelines.s2q_vdit.selection import _dealt, choose, movement, scaled, sensitivity
from stages.core.errors import UserError
from tests.pipelines.foundations.video.small import drawn

DIFF = drawn(8, 12, seed=1).double().square()
QUANT = drawn(8, 12, seed=2).double().square()


def test_movement_is_measured_towards_the_next_state_and_the_last_step_has_none() -> None:
    states = torch.tensor([[1.0, 3.0, 2.0]])[:, :, None, None].expand(1, 3, 2, 4)
    assert movement(states).tolist() == [[4.0, pytest.approx(1 / 9)]]
    assert movement(states.flip(1)).tolist() == [[pytest.approx(1 / 4), pytest.approx(4 / 9)]]


def test_sensitivity_is_the_norm_of_the_gram_matrix() -> None:
    tokens = drawn(3, 2, 10, 4).double()
    gram = tokens.mT @ tokens
    assert torch.allclose(sensitivity(tokens, "spectral"), torch.linalg.matrix_norm(gram, 2))
    assert torch.allclose(sensitivity(tokens, "frobenius"), torch.linalg.matrix_norm(gram, "fro"))
    largest = torch.linalg.svdvals(tokens)[..., 0] ** 2
    assert torch.allclose(sensitivity(tokens, "spectral"), largest)


def test_centred_sensitivity_is_that_of_what_varies_between_tokens() -> None:
    """A ground that all tokens share makes the spectral norm, however little else there is."""
    tokens = drawn(3, 10, 4).double()
    apart = tokens - tokens.mean(-2, keepdim=True)
    assert torch.allclose(sensitivity(tokens, "centred"), sensitivity(apart, "spectral"))
    dark = tokens - 5
    assert torch.allclose(sensitivity(dark, "centred"), sensitivity(tokens, "centred"))
    assert bool((sensitivity(dark, "spectral") > 5 * sensitivity(tokens, "spectral")).all())


def test_the_spectral_norm_bounds_what_an_error_of_the_weights_costs() -> None:
    tokens, worst = drawn(10, 4).double(), 0.0
    for error in drawn(200, 4, seed=3).double():
        error = error / error.norm()
        worst = max(worst, float((tokens @ error).square().sum()))
    top = float(sensitivity(tokens, "spectral"))
    assert 0.8 * top < worst <= top


def test_min_max_runs_over_the_whole_pool_and_not_over_a_prompt() -> None:
    found = scaled(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    assert found.tolist() == [[0.0, 0.25], [0.5, 1.0]]


def test_members_of_one_salience_cannot_be_ranked() -> None:
    with pytest.raises(UserError, match="same salience"):
        scaled(torch.full((2, 3), 4.0))


def test_the_product_is_zero_at_the_least_of_either_measure() -> None:
    # Member 1 moves least and has the largest Hessian; it is worth as little as a member can be.
    diff, quant = torch.tensor([[1.0, 0.0, 0.2]]), torch.tensor([[0.1, 9.0, 0.0]])
    assert choose("sds", diff, quant, 1) == [(0, 0)]
    product = scaled(diff) * scaled(quant)
    assert product[0, 1] == 0 and product[0, 2] == 0


def test_one_extreme_member_brings_all_others_together() -> None:
    quant = QUANT.clone()
    quant[0, 0] = 1e6
    assert float(scaled(quant).flatten()[1:].max()) < 1e-4


def test_nothing_keeps_the_largest_from_being_neighbours_in_one_prompt() -> None:
    diff, quant = torch.rand(4, 9) * 0.1, torch.rand(4, 9) * 0.1
    diff[2, 3:7] = quant[2, 3:7] = 1.0
    assert choose("sds", diff, quant, 4) == [(2, 3), (2, 4), (2, 5), (2, 6)]


@pytest.mark.parametrize("how", ["sds", "ds", "qs"])
def test_the_largest_are_taken(how: str) -> None:
    value = {"ds": DIFF, "qs": QUANT, "sds": scaled(DIFF) * scaled(QUANT)}[how]
    ranked = sorted(((float(value[p, s]), p, s) for p in range(8) for s in range(12)), reverse=True)
    found = choose(how, DIFF, QUANT, 10, 3)  # type: ignore[arg-type]
    assert found == sorted((p, s) for _, p, s in ranked[:10])
    assert found == choose(how, DIFF, QUANT, 10, 4), "salience knows no seed"  # type: ignore[arg-type]


def test_both_factors_and_each_alone_choose_differently() -> None:
    found = {tuple(choose(how, DIFF, QUANT, 10)) for how in ("sds", "ds", "qs")}  # type: ignore[arg-type]
    assert len(found) == 3


@pytest.mark.parametrize(("how", "prompts"), [("atop", 1), ("atfp", 5), ("rtfp", 5), ("random", 8)])
def test_the_others_draw_from_so_many_prompts(how: str, prompts: int) -> None:
    seen = set()
    for seed in range(6):
        found = choose(how, DIFF, QUANT, 10, seed)  # type: ignore[arg-type]
        assert found == choose(how, DIFF * 0 + QUANT, DIFF, 10, seed), "salience plays no part"  # type: ignore[arg-type]
        assert len(set(found)) == 10 and found == sorted(found)
        assert len({prompt for prompt, _ in found}) <= prompts
        seen.add(tuple(found))
    assert len(seen) > 3, "each seed draws anew, and one prompt of eight may come twice"


def test_all_steps_of_one_prompt_are_all_steps() -> None:
    found = choose("atop", DIFF, QUANT, 12, 0)
    assert [step for _, step in found] == list(range(12))
    halves = choose("atop", DIFF, QUANT, 6, 0)
    assert [step for _, step in halves] == [1, 3, 5, 7, 9, 11]


def test_all_steps_of_five_prompts_cover_time_and_prompts_alike() -> None:
    for count in (10, 12, 17, 60):
        found = choose("atfp", DIFF, QUANT, count, 1)
        prompts = [prompt for prompt, _ in found]
        shares = [prompts.count(prompt) for prompt in set(prompts)]
        assert len(shares) == 5 and max(shares) - min(shares) <= 1
        steps = [step for _, step in found]
        times = [steps.count(step) for step in range(12)]
        assert max(times) - min(times) <= 1


def test_dealing_gives_no_member_twice() -> None:
    for steps in (1, 5, 7):
        for count in range(1, 3 * steps + 1):
            dealt = _dealt([4, 2, 9], steps, count)
            assert len(dealt) == len(set(dealt)) == count


@pytest.mark.parametrize(("how", "count"), [("atop", 13), ("rtfp", 61), ("sds", 97)])
def test_a_pool_that_is_too_small_is_refused(how: str, count: int) -> None:
    with pytest.raises(UserError, match=f"'{how}' cannot give {count} samples"):
        choose(how, DIFF, QUANT, count)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="3 prompts of 12 steps"):
        choose("atfp", DIFF[:3], QUANT[:3], 4)
