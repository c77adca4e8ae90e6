"""The pool of candidates, and what is calibrated on: the notes' traps 1, 3 and 9."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.foundations.video import diffusion
from pipelines.s2q_vdit import pool
from pipelines.s2q_vdit.nets import patches
from pipelines.s2q_vdit.pool import Pool
from pipelines.s2q_vdit.selection import movement, sensitivity
from pipelines.s2q_vdit.source import Sampling
from stages.core.errors import UserError
from tests.pipelines.foundations.video import small as clips
from tests.pipelines.s2q_vdit import small

STEPS = 5
PROMPTS = torch.tensor([[2, 4], [3, 5], [2, 5]])


def made(seed: int = 0, batch: int = 2, steps: int = STEPS) -> Pool:
    sampling = Sampling(steps, 2.0)
    return pool.sample(small.teacher(), PROMPTS, sampling, "spectral", seed=seed, batch=batch)


def test_members_are_the_inputs_of_all_steps_but_the_last() -> None:
    found, taught = made(), small.teacher()
    assert found.states.shape == (3, STEPS - 1, *taught.shape)
    assert found.diff.shape == found.quant.shape == (3, STEPS - 1)
    noise = diffusion.noise_for([f"candidate-{k}" for k in range(3)], taught.shape, 0)
    assert torch.equal(found.states[:, 0], noise)
    walk = type(taught.noising).from_config(taught.noising.config)
    diffusion.set_steps(walk, STEPS, noise.device)
    assert found.times.tolist() == walk.timesteps[:-1].tolist()
    text, empty = taught.read(PROMPTS)
    x = noise
    for k, t in enumerate(walk.timesteps):
        if k < STEPS - 1:
            assert torch.allclose(found.states[:, k], x, atol=1e-5)
        out, _ = diffusion.guided(taught.denoiser, x, t, text, empty, 2.0)
        before, x = x, walk.step(out, t, x, return_dict=False)[0]
        if k < STEPS - 2:
            assert torch.allclose(found.diff[:, k], movement(torch.stack([before, x], 1))[:, 0])


def test_salience_is_that_of_latents_as_patch_tokens() -> None:
    found, taught = made(), small.teacher()
    tokens = patches(taught.denoiser, found.states)
    assert tokens.shape[2:] == (small.VIDEO, 16)
    for prompt in range(3):
        for step in range(STEPS - 1):
            own = sensitivity(tokens[prompt, step], "spectral")
            assert torch.allclose(found.quant[prompt, step], own)


def test_a_seed_has_noise_of_its_own_and_batches_change_nothing() -> None:
    one, same, other = made(), made(batch=3), made(seed=1)
    assert torch.allclose(one.states, same.states, atol=1e-5)
    assert not torch.allclose(one.states, other.states, atol=0.1)


def test_a_single_step_has_nothing_to_be_measured_by() -> None:
    with pytest.raises(UserError, match="needs two or more"):
        made(steps=1)


def test_candidates_are_different_prompts_while_there_are_some(tmp_path: Path) -> None:
    source = clips.clips(tmp_path)
    few, many = pool.draw(source, 4, 0), pool.draw(source, 6, 0)
    assert len({tuple(row) for row in few.tolist()}) == 4, "four kinds of clips are all there are"
    assert torch.equal(many[4:], few[:2])
    drawn = {tuple(map(tuple, pool.draw(source, 4, seed).tolist())) for seed in range(5)}
    assert len(drawn) > 1


def test_a_pool_comes_back_as_it_was(tmp_path: Path) -> None:
    found = made()
    found.keep(tmp_path / "seed0.safetensors")
    again = Pool.load(tmp_path / "seed0.safetensors")
    assert all(torch.equal(value, vars(again)[key]) for key, value in vars(found).items())
    with pytest.raises(UserError, match="calibrate made no pool of this seed"):
        Pool.load(tmp_path / "seed1.safetensors")


MEMBERS = [(0, 3), (2, 1)]


def test_both_branches_of_guidance_are_calibrated_on() -> None:
    found, taught = made(), small.teacher()
    rows = pool.rows(found, MEMBERS, taught, 2.0, "both")
    x = torch.stack([found.states[0, 3], found.states[2, 1]])
    assert torch.equal(rows.x, torch.cat([x, x]))
    assert rows.t.tolist() == [*(found.times[k].item() for k in (3, 1, 3, 1))]
    assert rows.steps == [3, 1, 3, 1]
    given, empty = taught.read(PROMPTS[[0, 2]])
    assert torch.equal(rows.text.tokens, torch.cat([empty.tokens, given.tokens]))


@pytest.mark.parametrize(("branches", "guidance"), [("prompted", 2.0), ("both", 1.0)])
def test_or_the_prompted_one_alone(branches: Any, guidance: float) -> None:
    taught = small.teacher()
    rows = pool.rows(made(), MEMBERS, taught, guidance, branches)
    assert len(rows.x) == 2 and rows.steps == [3, 1]
    assert torch.equal(rows.text.tokens, taught.read(PROMPTS[[0, 2]])[0].tokens)


def test_all_rows_go_through_the_network() -> None:
    seen: list[torch.Tensor] = []

    class Reads(torch.nn.Module):
        def forward(self, x, t, text):
            assert len(x) == len(t) == len(text)
            seen.append(x)

    rows = pool.rows(made(), [(0, 0), (1, 1), (2, 2)], small.teacher(), 1.0, "both")
    rows.through(Reads(), 2, torch.device("cpu"))
    assert [len(x) for x in seen] == [2, 1] and torch.equal(torch.cat(seen), rows.x)
