"""The training loop: resume to the byte, schedules, clipping, EMA, best and last, divergence."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save
from torch import nn

from stages.core.errors import UserError
from stages.core.job import Job
from stages.teach import loop
from stages.teach.loop import TrainSpec, fit

SPEC = {
    "steps": 30, "epochs": None, "batch": 4, "optimizer": "adam", "lr": 0.05, "weight_decay": 0.0,
    "schedule": "constant", "warmup": 0, "plateau_patience": 2, "plateau_threshold": 0.05,
    "clip": 5.0, "ema": 0.0, "validate_every": 10,
}  # fmt: skip


def spec(**changes: object) -> TrainSpec:
    return TrainSpec(**{**SPEC, **changes})


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))


def loss(model: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(4, 3)
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def validate(model: nn.Module) -> float:
    x = torch.linspace(-1, 1, 30).view(10, 3)
    return float((model(x) - x.sum(1, keepdim=True)).square().mean())


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0.9}, {"schedule": "cosine", "warmup": 5}, {"schedule": "plateau"}]
)
def test_a_run_cut_at_any_step_ends_with_the_bytes_of_an_undisturbed_one(
    job: Job, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    whole = fit(net(), loss, spec(**changes), job=job, name="whole", seed=1, validate=validate)
    # The name seeds the steps, so the disturbed run must carry the same one.
    (job.resume / "whole").rename(job.resume / "kept")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    for cut in (1, 10, 11, 29):

        def cutting(model: nn.Module, step: int, cut: int = cut) -> torch.Tensor:
            if step == cut:
                raise Stop
            return loss(model, step)

        with pytest.raises(Stop):
            fit(net(), cutting, spec(**changes), job=job, name="whole", seed=1, validate=validate)
    again = fit(net(), loss, spec(**changes), job=job, name="whole", seed=1, validate=validate)
    assert save(again.best) == save(whole.best)
    assert save(again.last) == save(whole.last)
    assert again.curve == whole.curve and again.best_step == whole.best_step
    for name in ("best.safetensors", "last.safetensors", "curve.csv"):
        assert (job.resume / "whole" / name).read_bytes() == (
            job.resume / "kept" / name
        ).read_bytes()


def test_a_finished_training_is_not_repeated(job: Job) -> None:
    first = fit(net(), loss, spec(), job=job, name="n", seed=1)

    def never(model: nn.Module, step: int) -> torch.Tensor:
        raise AssertionError("trained again")

    assert save(fit(net(), never, spec(), job=job, name="n", seed=1).last) == save(first.last)


def test_best_is_the_lowest_validation_loss_and_last_is_the_end(job: Job) -> None:
    values = iter([3.0, 1.0, 2.0])
    seen: list[dict] = []

    def scripted(model: nn.Module) -> float:
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(values)

    done = fit(net(), loss, spec(), job=job, name="n", seed=1, validate=scripted)
    assert done.best_step == 20
    assert save(done.best) == save(dict(sorted(seen[1].items())))
    assert save(done.last) == save(dict(sorted(seen[2].items())))


def test_snapshots_come_after_their_update_and_before_the_first(job: Job) -> None:
    steps: list[int] = []
    fit(
        net(), loss, spec(), job=job, name="n", seed=1,
        snapshots=(0, 7, 30), on_snapshot=lambda step, model: steps.append(step),
    )  # fmt: skip
    assert steps == [0, 7, 30]


def test_sgd_without_extras_is_the_closed_form(job: Job) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    changes = {"steps": 3, "optimizer": "sgd", "lr": 0.1, "clip": None}
    fit(model, lambda m, _: m.weight.square().sum() / 2, spec(**changes), job=job, name="n", seed=0)
    # w <- w - 0.1 w, three times.
    assert model.weight.item() == pytest.approx(2.0 * 0.9**3, rel=1e-6)


def test_clipping_bounds_the_step(job: Job) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 100.0)
    changes = {"steps": 1, "optimizer": "sgd", "lr": 1.0, "clip": 0.5}
    fit(model, lambda m, _: m.weight.square().sum() / 2, spec(**changes), job=job, name="n", seed=0)
    assert model.weight.item() == pytest.approx(99.5, abs=1e-4)


def test_ema_is_the_closed_form(job: Job) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    changes = {"steps": 3, "optimizer": "sgd", "lr": 1.0, "clip": None, "ema": 0.5}
    done = fit(model, lambda m, _: -m.weight.sum(), spec(**changes), job=job, name="n", seed=0)
    # Weights 1, 2, 3; the average starts at the first and halves its distance at each update.
    assert float(done.last["weight"]) == pytest.approx(((1 + 2) / 2 + 3) / 2)


def test_schedules_follow_their_formulas() -> None:
    cosine = spec(schedule="cosine", warmup=10, steps=110)
    assert loop._factor(cosine, 110, 0) == pytest.approx(0.1)
    assert loop._factor(cosine, 110, 9) == pytest.approx(1.0)
    assert loop._factor(cosine, 110, 60) == pytest.approx(0.5)
    assert loop._factor(cosine, 110, 110) == pytest.approx(0.0)
    assert loop._factor(spec(), 30, 17) == 1.0


def test_the_plateau_is_judged_by_an_absolute_threshold(job: Job) -> None:
    # Gains of 0.01 at a loss of -10 pass torch's relative default of 1e-4, but not 0.05 absolute.
    losses = iter(-10 - 0.01 * k for k in range(30))
    changes = {"schedule": "plateau", "validate_every": 1, "lr": 0.1}
    done = fit(net(), loss, spec(**changes), job=job, name="n", seed=0,
               validate=lambda _: next(losses))  # fmt: skip
    assert done.curve[0]["lr"] == pytest.approx(0.1)
    assert done.curve[-1]["lr"] < 0.05


def test_epochs_count_their_steps() -> None:
    assert spec(steps=None, epochs=2.5).length(40) == 100
    with pytest.raises(UserError, match="no epoch"):
        spec(steps=None, epochs=1.0).length(None)
    with pytest.raises(ValidationError, match="either steps or epochs"):
        spec(epochs=1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_a_clear_error(job: Job, value: float) -> None:
    def broken(model: nn.Module, step: int) -> torch.Tensor:
        return loss(model, step) * (value if step == 4 else 1.0)

    with pytest.raises(UserError, match="at update 4"):
        fit(net(), broken, spec(), job=job, name="n", seed=1)


def test_a_validation_error_that_is_not_finite_stops_with_a_clear_error(job: Job) -> None:
    with pytest.raises(UserError, match="the validation error is nan at update"):
        fit(net(), loss, spec(), job=job, name="n", seed=1, validate=lambda model: math.nan)


CHILD = """
import sys, time, json
sys.path.insert(0, {root!r})
from stages.core import environment
environment.pin(1)
from pathlib import Path
from stages.core.dag import Node
from tests.jobs import for_tests
from stages.teach import loop
loop.CHECKPOINT_SECONDS = 0.0
sys.path.insert(0, {here!r})
import test_loop as t
def slow(model, step):
    time.sleep(0.01)
    print(step, flush=True)
    return t.loss(model, step)
with for_tests(Path({folder!r}), Node("demo", "teach", None, None, (), (), ())) as job:
    loop.fit(t.net(), slow, t.spec(steps=60), job=job, name="n", seed=1, validate=t.validate)
print(json.dumps("done"), flush=True)
"""


def test_kill_9_in_training_changes_nothing(tmp_path: Path, root: Path, job: Job) -> None:
    whole = fit(net(), loss, spec(steps=60), job=job, name="n", seed=1, validate=validate)
    folder = tmp_path / "killed"
    folder.mkdir()
    text = CHILD.format(root=str(root), here=str(Path(__file__).parent), folder=str(folder))
    for stop in (3, 25, 40):
        child = subprocess.Popen(
            [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, env={**os.environ}
        )
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == str(stop):
                break
        time.sleep(0.004)
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    first = int(done.stdout.split()[0])
    assert 1 < first <= 42, "it must go on from the last checkpoint, not from the start"
    assert json.loads(done.stdout.splitlines()[-1]) == "done"
    last = load_file(folder / ".resume/n/last.safetensors")
    assert save(last) == save(whole.last)
