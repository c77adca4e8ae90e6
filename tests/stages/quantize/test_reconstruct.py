"""Reconstruction: its order, its optimum, what it leaves alone, and what a step costs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from stages.core.errors import UserError
from stages.core.job import Job
from stages.quantize.capture import ROOT, Records, capture
from stages.quantize.grids import Grid
from stages.quantize.layers import (
    InputSpec,
    QuantLinear,
    WeightSpec,
    fix_all,
    knobs,
    quantized,
)
from stages.quantize.reconstruct import (
    Group,
    ReconstructSpec,
    batch_of,
    learning,
    mean_loss,
    reconstruct,
    weighted_error,
)
from stages.quantize.rounding import Anneal, penalty
from stages.quantize.transforms import Kronecker

SPEC = {"steps": 60, "batch": 4, "weight_decay": 0.0, "final": 1e-3, "clip": None}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def spec(**changes: object) -> ReconstructSpec:
    return ReconstructSpec(**{**SPEC, **changes})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mse(output: Tensor, target: Tensor, samples: Tensor) -> Tensor:
    return weighted_error(output, target)


def recorded(model: nn.Module, *calls: Tensor) -> Records:
    with torch.no_grad(), capture(model, [ROOT]) as found:
        for call in calls:
            model(call)
    return found[ROOT]


def linear(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(6, 5)


class Fit(NamedTuple):
    """Mean loss over all records before and after, and that of every step."""

    before: float
    after: float
    curve: list[float]


def fit(block: nn.Module, records: Records, job: Job, **options: Any) -> Fit:
    parameters = options.pop("parameters", list(block.parameters()))
    groups = options.pop("groups", [Group(parameters, options.pop("lr", 0.05))])
    chosen, loss = options.pop("spec", spec()), options.pop("loss", mse)
    before = mean_loss(block, records, loss, 4) if len(records) else math.nan
    curve = reconstruct(
        block, records, groups, loss, chosen,
        job=job, name="block", seed=options.pop("seed", 0), **options,
    )  # fmt: skip
    return Fit(before, mean_loss(block, records, loss, 4), curve)


def test_a_linear_student_becomes_its_teacher(job: Job) -> None:
    teacher, student = linear(0), linear(1)
    records = recorded(teacher, noise(16, 7, 6), noise(3, 7, 6, seed=1))
    found = fit(student, records, job, spec=spec(steps=400))
    assert found.after < 1e-4 * found.before and len(found.curve) == 400
    torch.testing.assert_close(student.weight, teacher.weight, atol=0.02, rtol=0)
    # Each sample counts once, however they are cut into batches.
    assert found.after == pytest.approx(mean_loss(student, records, mse, 5), rel=1e-4)


def test_the_first_step_is_adams_and_the_rate_falls_as_a_cosine(job: Job) -> None:
    moves = []
    for steps in (1, 2, 3, 4):
        student = nn.Linear(1, 1, bias=False)
        student.weight.data.fill_(50.0)  # far away: Adam's step is nearly the rate itself
        records = recorded(nn.Linear(1, 1, bias=False), torch.ones(4, 1, 1))
        fit(student, records, job, spec=spec(steps=steps, final=0.1), lr=0.01)
        moves.append(50.0 - float(student.weight.detach()))
    for steps, moved in zip((1, 2, 3, 4), moves, strict=True):
        rates = [0.1 + 0.45 * (1 + math.cos(math.pi * k / steps)) for k in range(steps)]
        assert moved == pytest.approx(0.01 * sum(rates), rel=1e-3)


def test_every_sample_comes_as_often_as_every_other() -> None:
    count, batch = 10, 4
    seen = [i for step in range(1, count + 1) for i in batch_of(count, batch, step, "a", 0)]
    assert sorted(seen) == sorted(list(range(count)) * batch)
    for epoch in range(batch):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert seen[:count] != seen[count : 2 * count]
    assert batch_of(count, batch, 3, "a", 0) == seen[8:12]
    assert batch_of(count, batch, 3, "a", 1) != seen[8:12]
    assert sorted(batch_of(2, 5, 1, "a")[:4]) == [0, 0, 1, 1]  # more than there are


def test_the_same_seed_gives_the_same_bits(job: Job) -> None:
    records = recorded(linear(0), noise(9, 7, 6))
    states = []
    for seed in (0, 0, 1):
        student = linear(1)
        torch.manual_seed(len(states))  # nothing may be drawn from the global state
        fit(student, records, job, seed=seed)
        states.append(student.weight.detach().clone())
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_only_the_groups_are_changed_and_everything_else_is_put_back(job: Job) -> None:
    student = nn.Sequential(linear(1), nn.Dropout(0.5), nn.Linear(5, 5).requires_grad_(False))
    student.train()
    teacher = nn.Sequential(linear(0), nn.Identity(), nn.Linear(5, 5))
    records = recorded(teacher, noise(8, 7, 6))
    kept, moved = student[0].weight.detach().clone(), student[2].weight.detach().clone()
    fit(student, records, job, parameters=[student[2].weight])
    assert torch.equal(student[0].weight, kept) and student[0].weight.requires_grad
    assert not torch.equal(student[2].weight, moved) and not student[2].weight.requires_grad
    assert student[0].weight.grad is None and student.training


def test_groups_learn_at_their_own_rates(job: Job) -> None:
    student, before = linear(1), linear(1)
    records = recorded(linear(0), noise(8, 7, 6))
    groups = [Group([student.weight], 1e-2), Group([student.bias], 1e-5)]
    reconstruct(student, records, groups, mse, spec(steps=1), job=job, name="block", seed=0)
    for name, rate in (("weight", 1e-2), ("bias", 1e-5)):
        gap = getattr(student, name) - getattr(before, name)
        torch.testing.assert_close(gap.abs(), torch.full_like(gap, rate), rtol=1e-2, atol=1e-7)


def test_the_loss_is_told_which_samples_it_sees(job: Job) -> None:
    """A sample whose weight is zero is not learned."""
    x = torch.eye(2).view(2, 1, 2)
    teacher, student = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    student.weight.data.zero_()
    weights = torch.tensor([[1.0], [0.0]])

    def loss(output: Tensor, target: Tensor, samples: Tensor) -> Tensor:
        return weighted_error(output, target, weights[samples])

    fit(student, recorded(teacher, x), job, loss=loss, spec=spec(steps=300, batch=1))
    assert float(student.weight[0, 0]) == pytest.approx(float(teacher.weight[0, 0]), abs=1e-3)
    assert float(student.weight[0, 1]) == 0.0


def test_the_weighted_error_is_equation_10_over_the_channels() -> None:
    a, b, weights = noise(2, 5, 3), noise(2, 5, 3, seed=1), noise(2, 5, seed=2).abs()
    wanted = [
        sum(weights[k, j] * (a[k, j] - b[k, j]).square().sum() for j in range(5)) / 5 / 3
        for k in range(2)
    ]
    torch.testing.assert_close(weighted_error(a, b, weights), (wanted[0] + wanted[1]) / 2)
    torch.testing.assert_close(weighted_error(a, b), (a - b).square().mean())
    torch.testing.assert_close(weighted_error(a, b, torch.ones(5)), (a - b).square().mean())
    assert weighted_error(a.bfloat16(), b.bfloat16()).dtype == torch.float32


def test_trap_1f_5_a_factor_on_all_token_weights_changes_nothing(job: Job) -> None:
    """Under Adam only their ratios count; so normalising them to mean one is no choice at all."""
    weights, states = noise(8, 7, seed=5).square() + 0.5, []
    for factor in (1.0, 1 / float(weights.mean())):

        def loss(output: Tensor, target: Tensor, samples: Tensor, by: float = factor) -> Tensor:
            return weighted_error(output, target, by * weights[samples])

        student = linear(1)
        fit(student, recorded(linear(0), noise(8, 7, 6)), job, loss=loss)
        states.append(student.weight.detach())
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-5)


def test_a_penalty_is_added_at_every_step(job: Job) -> None:
    student, steps = linear(1), []

    def penalty(step: int) -> Tensor | float:
        steps.append(step)
        return 0.0 if step < 3 else 1e3 * student.weight.square().sum()

    records = recorded(linear(0), noise(8, 7, 6))
    found = fit(student, records, job, penalty=penalty, spec=spec(steps=200))
    assert steps == list(range(1, 201))
    assert found.curve[1] < 10 < found.curve[2]
    assert float(student.weight.detach().abs().max()) < 0.05


def test_what_the_quantized_blocks_before_it_give_can_be_the_input(job: Job) -> None:
    teacher = nn.Sequential(linear(0), nn.Linear(5, 5))
    student = nn.Sequential(linear(3), nn.Linear(5, 5))
    x = noise(12, 7, 6)
    with torch.no_grad(), capture(teacher, ["1"]) as wanted, capture(student, ["1"]) as given:
        teacher(x)
        student(x)
    records = replace(given["1"], outputs=wanted["1"].outputs)
    found = fit(student[1], records, job, spec=spec(steps=400))
    assert found.after < 0.2 * found.before
    got = float((student(x) - teacher(x)).detach().square().mean())
    assert got == pytest.approx(found.after, rel=1e-4)


def quantized_net(bits: int) -> nn.Module:
    rows = Grid(bits=bits, symmetric=True, granularity="channel", group=None, dynamic=True)
    tokens = Grid(bits=6, symmetric=True, granularity="token", group=None, dynamic=True)
    weights = WeightSpec(grid=rows, clip="learned", norm=None, rounding="nearest")
    plain = [nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)]
    made = [
        QuantLinear(part, weights, InputSpec(grid=tokens, clip="learned"),
                    transform=Kronecker.hadamard(part.in_features))
        if isinstance(part, nn.Linear) else part for part in plain
    ]  # fmt: skip
    return nn.Sequential(*made)


def test_a_quantized_block_comes_nearer_to_its_teacher(job: Job) -> None:
    block = quantized_net(3)
    for layer in quantized(block).values():
        layer.set_state(weights=False, inputs=False)
    records = recorded(block, noise(16, 20, 32) * torch.linspace(0.1, 5, 32))
    for layer in quantized(block).values():
        layer.set_state(weights=True, inputs=True)
    trained = knobs(block)
    groups = [Group(trained["transform"], 5e-3), Group(trained["clip"], 5e-2)]
    groups += [Group(trained["input_clip"], 5e-2)]
    found = fit(block, records, job, groups=groups, spec=spec(steps=150))
    assert found.after < 0.75 * found.before


def test_learned_rounding_through_reconstruction_beats_the_nearest(job: Job) -> None:
    """BRECQ's: soft while it learns, and the hard codes are what is compared."""
    torch.manual_seed(0)
    rows = Grid(bits=3, symmetric=True, granularity="channel", group=None, dynamic=False)
    plain = nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 24))
    records = recorded(plain, 1 + 0.5 * noise(16, 12, 24))  # a common part: errors should cancel

    def at(rounding: Any) -> nn.Sequential:
        spec = WeightSpec(grid=rows, clip="max", norm=None, rounding=rounding)
        parts = (QuantLinear(p, spec, None) if isinstance(p, nn.Linear) else p for p in plain)
        return nn.Sequential(*parts)

    nearest, block, steps = at("nearest"), at("learned"), 300
    fix_all(nearest)
    lost = mean_loss(nearest, records, mse, 16)
    anneal = Anneal(weight=1e-3, warm=0.2, start=10.0, end=2.0)
    found = fit(
        block, records, job, parameters=knobs(block)["rounding"], spec=spec(steps=steps, final=1.0),
        penalty=lambda step: penalty(block, anneal, step, steps),
    )  # fmt: skip
    assert found.before < 1e-6 * lost, "soft rounding starts near the teacher"
    fix_all(block)
    hard = mean_loss(block, records, mse, 16)
    assert hard == pytest.approx(found.after, rel=1e-4), "no weight is undecided"
    assert hard < 0.3 * lost


@pytest.mark.slow
def test_a_step_costs_little_more_than_the_quantized_blocks_own_pass(job: Job) -> None:
    """What batches, optimiser and schedule add to a pass of the block that is quantized already.

    `pipelines/s2q_vdit/cost.py` measures an update against the full-precision block's pass.
    """
    block, count, steps = quantized_net(4), 8, 20
    records = recorded(block, noise(count, 500, 32))
    trained = [p for kind in knobs(block).values() for p in kind]
    given, target = records.batch(range(count), torch.device("cpu"))

    def plain() -> None:
        for parameter in trained:
            parameter.grad = None
        mse(given.call(block), target, torch.arange(count)).backward()

    def step() -> None:
        fit(block, records, job, parameters=trained, spec=spec(steps=steps, batch=count))

    def seconds(run: Callable[[], None]) -> float:
        run()
        begun = time.process_time()
        run()
        return time.process_time() - begun

    ratios = []
    for _ in range(3):
        pass_, whole = [seconds(plain) for _ in range(7)], seconds(step)
        # Before and after its steps a reconstruction runs the block twice without gradients.
        ratios.append(whole / (steps + 2) / statistics.median(pass_))
    assert statistics.median(ratios) < 1.3


def test_what_diverges_in_the_last_update_is_refused(job: Job) -> None:
    records = recorded(linear(0), noise(8, 7, 6))
    student = linear(1)
    with pytest.raises(UserError, match=r"block: the loss is inf after the last step; lower"):
        fit(student, records, job, spec=spec(steps=1), lr=1e30)
    assert all(parameter.requires_grad for parameter in student.parameters())
    student = linear(1)
    groups = [Group(list(student.parameters()), torch.inf)]
    made = learning(student, records, groups, mse, spec(steps=1), name="block", seed=0)
    with pytest.raises(UserError, match="block: what was learned is not finite"), made as step:
        assert math.isfinite(step(1))


def test_mistakes_are_named(job: Job) -> None:
    for groups in ([], [Group([], 0.1)]):
        with pytest.raises(ValueError, match="block: no parameter is given to learn"):
            reconstruct(
                linear(0), recorded(linear(0), noise(2, 7, 6)), groups, mse, spec(),
                job=job, name="block", seed=0,
            )  # fmt: skip
    with pytest.raises(UserError, match="block: nothing was recorded"):
        fit(linear(0), Records(), job)
    with pytest.raises(UserError, match="block: the loss is nan at step 1"):
        records = recorded(linear(0), torch.full((4, 7, 6), torch.nan))
        fit(linear(1), records, job)
    with pytest.raises(ValidationError):
        spec(steps=0)
