"""Learning: it lowers its loss, by the same updates and the same count of numbers in every arm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.q_vdit import plan, training
from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.student import Ground
from stages.core.job import Job
from stages.core.params import read_yaml
from stages.quantize.layers import quantized
from stages.quantize.quantizers import InputQuantizer
from stages.quantize.reconstruct import ReconstructSpec
from tests.pipelines.q_vdit import small
from tests.pipelines.q_vdit.small import RATES, SMOOTH, TERM, TOKEN, TRAIN

MODEL: dict[str, Any] = {"inner": 1, "scope": "model"}
LEARNING: dict[str, dict[str, Any]] = {
    "mse": MODEL,
    "tmd": MODEL | {"temporal": TERM},
    "tqe": TOKEN,
    "tqe_no_gain": {"beside": "token", "scope": "model"},
    "q_vdit": TOKEN | SMOOTH | {"temporal": TERM},
    "efficientdm": MODEL | {"rates": "scale_aware"},
    "svdquant_trained": SMOOTH | {"beside": "svd", "rank": 1, "scope": "model"},
    "ptq4dit": {"scale": "balanced", "inner": 1, "scope": "block"},
    "block_mse": {"inner": 1, "scope": "block"},
    "released": {
        "inner": 4, "beside": "token", "gain": "doubled", "scope": "model", "inputs": False,
        "masked": False,
    },
}  # fmt: skip
CELL = "W3A6-all"
HELD = 2


def learned(
    start: Ground, job: Job, arm: dict[str, Any], **changes: Any
) -> tuple[Denoiser, list[dict[str, float]]]:
    made = small.student(start, CELL, **arm)
    spec = ReconstructSpec.model_validate(TRAIN | changes)
    rates = training.Rates.model_validate(RATES)
    curve = training.learn(
        made, Arm.model_validate(arm), start, spec, rates, HELD, job=job, name=CELL
    )
    return made, curve


@pytest.mark.parametrize("name", LEARNING)
def test_every_arm_learns_all_that_it_counts_and_nothing_else(name: str, job: Job) -> None:
    start, arm = small.ground(), LEARNING[name]
    before = dict(small.student(start, CELL, **arm).named_parameters())
    made, curve = learned(start, job, arm)
    after = dict(made.named_parameters())
    moved = {key: p for key, p in after.items() if not torch.equal(p, before[key])}
    spec = Arm.model_validate(arm)
    wanted = {
        id(p)
        for group in training.groups(made, spec, training.Rates.model_validate(RATES))
        for p in group.parameters
    }
    assert {id(p) for p in moved.values()} <= wanted
    # Text that is empty of words, say, may leave a layer's numbers without a gradient.
    assert len(moved) > 0.8 * len(wanted)
    count = sum(p.numel() for p in after.values() if id(p) in wanted)
    assert training.trainable(made, spec)["all"] == count
    blocks = plan.blocks(made) if spec.scope == "block" else [""]
    assert [row["step"] for row in curve] == list(range(1, 7)) * len(blocks)
    assert all(layer.weights_on and layer.inputs_on for layer in quantized(made).values())


@pytest.mark.parametrize("name", ["tqe", "mse", "q_vdit", "block_mse"])
def test_learning_brings_the_student_nearer(name: str, job: Job) -> None:
    start = small.ground()
    before = training.measures(small.student(start, CELL, **LEARNING[name]), start, 4)
    made, _ = learned(start, job, LEARNING[name], steps=25)
    after = training.measures(made, start, 4)
    assert after["error"] < 0.95 * before["error"]


def test_the_temporal_term_falls_further_where_it_is_asked_for(job: Job) -> None:
    start = small.ground()
    heavy = TERM | {"weight": 1e5}
    with_it, without = (
        training.measures(learned(start, job, arm, steps=30)[0], start, 4)
        for arm in (MODEL | {"temporal": heavy}, MODEL)
    )
    assert with_it["temporal"] < without["temporal"]


def test_numbers_that_learn_are_counted_and_equal_but_for_the_gains() -> None:
    """An inner branch of rank 1 has in + out, the estimator in + out + T where there are frames."""
    start = small.ground()
    counts = {
        name: training.trainable(
            small.student(start, CELL, **LEARNING[name]), Arm.model_validate(LEARNING[name])
        )
        for name in ("mse", "tqe_no_gain", "tqe", "block_mse")
    }
    layers = quantized(small.student(start, CELL)).values()
    rows = sum(layer.out_features for layer in layers)
    branch = rows + sum(layer.in_features for layer in layers)
    assert counts["mse"] == {"scale": rows, "inner": branch, "all": rows + branch}
    assert counts["block_mse"] == counts["mse"]
    assert counts["tqe_no_gain"] == {"scale": rows, "beside": branch, "all": rows + branch}
    framed = len(layers) - 2
    assert counts["tqe"]["beside"] == branch + small.FRAMES * framed
    arm = Arm.model_validate(SMOOTH)
    assert training.trainable(small.student(start, CELL, **SMOOTH), arm) == {"all": 0}


def test_a_scale_aware_branch_learns_in_proportion_to_its_steps() -> None:
    start, arm = small.ground(), LEARNING["efficientdm"]
    made = small.student(start, CELL, **arm)
    rates = training.Rates.model_validate(RATES | {"divisor": 10.0})
    found = training.groups(made, Arm.model_validate(arm), rates)
    inner = found[1:]
    assert len(inner) == len(quantized(made))
    for group, layer in zip(inner, quantized(made).values(), strict=True):
        assert layer.weights.scale is not None
        assert group.lr == pytest.approx(float(layer.weights.scale.detach().mean()) / 10)
    assert len({group.lr for group in inner}) > 1


class Calls:
    """Counts the calls of the inputs' quantizers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        forward = InputQuantizer.forward

        def counted(quantizer: InputQuantizer, x: Tensor) -> Tensor:
            self.count += 1
            return forward(quantizer, x)

        monkeypatch.setattr(InputQuantizer, "forward", counted)


@pytest.mark.parametrize("inputs", [True, False])
def test_the_released_branch_never_sees_rounded_activations(
    inputs: bool, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, calls = small.ground(), Calls(monkeypatch)
    made, _ = learned(start, job, {"beside": "token", "scope": "model", "inputs": inputs})
    assert (calls.count > 0) == inputs
    calls.count = 0
    small.output(made, start)
    assert calls.count == len({layer.inputs for layer in quantized(made).values()})


def test_all_arms_of_a_cell_see_the_same_batches(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Tensor]] = {}
    start = small.ground()
    for name in ("mse", "tqe"):
        seen[name] = kept = []

        def watch(_: nn.Module, args: tuple[Any, ...], kept: list[Tensor] = kept) -> None:
            if torch.is_grad_enabled():
                kept.append(args[0])

        made = small.student(start, CELL, **LEARNING[name])
        made.register_forward_pre_hook(watch)
        spec = ReconstructSpec.model_validate(TRAIN)
        rates = training.Rates.model_validate(RATES)
        arm = Arm.model_validate(LEARNING[name])
        training.learn(made, arm, start, spec, rates, HELD, job=job, name=CELL)
    assert len(seen["mse"]) == 6
    assert all(torch.equal(a, b) for a, b in zip(seen["mse"], seen["tqe"], strict=True))


@pytest.mark.parametrize("name", LEARNING)
def test_the_text_s_mask_is_withheld_by_the_released_reading_alone(name: str, job: Job) -> None:
    """Trap 2(f)-7: the teacher's outputs were made with the mask."""
    start, arm = small.ground(), LEARNING[name]
    made, shown = small.student(start, CELL, **arm), []
    assert start.text.mask is not None and not bool(start.text.mask.all())
    made.register_forward_pre_hook(lambda _, args: shown.append(args[2].mask is not None))
    spec = ReconstructSpec.model_validate(TRAIN | {"steps": 2})
    rates, own = training.Rates.model_validate(RATES), Arm.model_validate(arm)
    training.learn(made, own, start, spec, rates, HELD, job=job, name=CELL)
    assert shown and set(shown) == {own.masked}
    shown.clear()
    training.measures(made, start, 4)
    assert set(shown) == {True}, "an arm is judged with the mask, however it learned"


@pytest.mark.parametrize("held", [1, 3, 100])
def test_a_block_is_given_what_the_teacher_s_block_was_given(held: int) -> None:
    """However many blocks are held at a time, the teacher is run once for each such group."""
    start = small.ground(layers=2)
    made = small.student(start, CELL, **LEARNING["block_mse"])
    paths, calls = plan.blocks(made), []
    made.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    found = dict(training.captured(made, start.records(), 5, held))
    assert list(found) == paths
    assert sum(calls) == len(start.samples) * math.ceil(len(paths) / held)
    for path, records in found.items():
        assert len(records) == len(start.samples)
        block = start.taught.denoiser.get_submodule(path)
        given, target = records.batch([3, 7], torch.device("cpu"))
        with torch.no_grad():
            torch.testing.assert_close(given.call(block), target)
        assert len(target) == 2 * len(records.outputs[3])


def test_an_arm_s_own_rate_is_that_of_its_branches_alone() -> None:
    arm = {"inner": 4, "beside": "token", "gain": "doubled", "scope": "model"}
    rates = training.Rates.model_validate(RATES)
    made = small.student(small.ground(), CELL, **arm)
    shared, own = (
        [group.lr for group in training.groups(made, Arm.model_validate(arm | more), rates)]
        for more in ({}, {"branch_rate": 0.125})
    )
    assert shared == [rates.scale, rates.branch, rates.branch]
    assert own == [rates.scale, 0.125, 0.125]
    with pytest.raises(ValidationError, match="branch_rate needs a branch that learns"):
        Arm.model_validate({"beside": "svd", "rank": 1, "scope": "model", "branch_rate": 0.1})


def test_weight_decay_would_pull_the_gains_to_zero(job: Job) -> None:
    """Trap 2(f)-16: AdamW's decay draws steps and M, which are far from zero, like any weight."""
    start = small.ground()

    def gains(decay: float) -> Tensor:
        made, _ = learned(start, job, TOKEN, steps=25, weight_decay=decay)
        layers = quantized(made).values()
        return torch.cat(
            [layer.beside.gain.detach().flatten() for layer in layers if has_gain(layer)]
        )

    none, some = gains(0.0), gains(0.5)
    assert some.norm() < 0.98 * none.norm()
    desk = read_yaml(Path(__file__).parents[3] / "params.yaml")
    assert desk["q_vdit"]["quantize"]["train"]["weight_decay"] == 0


def has_gain(layer: nn.Module) -> bool:
    return getattr(layer.beside, "gain", None) is not None
