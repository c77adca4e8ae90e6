"""Batches, workers and kills: the same bytes whatever happens."""

import pytest
import torch

from pipelines.sdkd import simulate
from pipelines.sdkd.navier_stokes import Recipe, trajectories
from stages.core.errors import UserError
from tests.jobs import for_tests
from tests.pipelines.sdkd.prepared import NODE, RECIPE

COUNTS = {"train": 5, "valid": 2, "test": 1}


def run(folder, batch=2, workers=1, **change):
    with for_tests(folder, NODE) as job:
        given = Recipe.model_validate(RECIPE | change)
        return simulate.simulate(given, COUNTS, 0, batch, workers, job)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[split], b[split]) for split in a)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return run(tmp_path_factory.mktemp("made"))


def test_every_trajectory_is_there(made):
    assert {split: tuple(f.shape) for split, f in made.items()} == {
        "train": (5, 5, 16, 16), "valid": (2, 5, 16, 16), "test": (1, 5, 16, 16),
    }  # fmt: skip
    one = trajectories(Recipe.model_validate(RECIPE), 0, "train", 3, 1, "cpu")
    assert torch.equal(made["train"][3], one[0])


def test_batches_decide_the_speed_alone(made, tmp_path):
    assert same(made, run(tmp_path, batch=4))


@pytest.mark.slow  # each worker imports torch
def test_workers_decide_the_speed_alone(made, tmp_path):
    assert same(made, run(tmp_path, workers=3))
    assert same(made, run(tmp_path / "two", batch=3, workers=2))


def test_a_stage_of_several_threads_makes_the_same(made, tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert same(made, run(tmp_path))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_after_a_kill_only_the_rest_is_simulated(made, tmp_path, monkeypatch):
    original, done = simulate.trajectories, []

    def killed(recipe, seed, split, first, count, device):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((split, first))
        return original(recipe, seed, split, first, count, device)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(simulate, "trajectories", killed)
        run(tmp_path)
    again = []
    with monkeypatch.context() as patch:
        patch.setattr(
            simulate, "trajectories", lambda *how: again.append(how[2:4]) or original(*how)
        )
        assert same(made, run(tmp_path))
    assert done == [("train", 0), ("train", 2), ("train", 4)]
    assert again == [("valid", 0), ("test", 0)]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_trajectory_that_breaks_down_is_told(workers, tmp_path):
    with pytest.raises(UserError, match="train trajectory 0 is not finite at time"):
        run(tmp_path, workers=workers, viscosity=1e-6, forcing=50.0, step=0.5, frames=40)
