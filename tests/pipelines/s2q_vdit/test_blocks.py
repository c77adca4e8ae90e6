"""A block is quantized by each base: what learns, what is fixed, what is told."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.s2q_vdit import blocks, tokens
from pipelines.s2q_vdit.base import Base
from pipelines.s2q_vdit.blocks import Given, Outcome
from pipelines.s2q_vdit.nets import of_video
from stages.core.job import Job
from stages.quantize.layers import plain, quantized
from stages.quantize.smooth import maxima
from tests.pipelines.s2q_vdit import small


def done(
    job: Job, own: Base, bits: str = "W4A4", weighing: Tensor | None = None, **changes: Any
) -> tuple[torch.nn.Module, Given, Outcome]:
    net = small.denoiser(1)
    name, given = small.observed(net)
    block = small.swapped(net, own, bits).get_submodule(name)
    outcome = blocks.quantize(
        block, name, given, own, weighing, "apart", small.course(**changes), job=job, seed=0
    )
    return block, given, outcome


def plain_error(block: torch.nn.Module, given: Given) -> float:
    calls, target = given.records.batch(range(6), torch.device("cpu"))
    with torch.no_grad():
        return float((of_video(calls.call(block)) - of_video(target)).square().mean())


@pytest.mark.parametrize("name", small.BASES)
def test_a_block_ends_fixed_and_its_error_is_told(job: Job, name: str) -> None:
    own = small.base(name)
    block, given, outcome = done(job, own)
    for layer in quantized(block).values():
        assert layer.weights.held is not None
        scaled = layer.weights.held.unflatten(1, (layer.codes().scale.shape[1], -1))
        codes = scaled / layer.codes().scale[..., None]
        assert torch.allclose(codes, codes.round(), atol=1e-4)
        assert float(codes.abs().max()) <= 8.001
    assert outcome.after["plain"] == pytest.approx(plain_error(block, given), rel=1e-4)
    assert (outcome.learned > 0) == own.learns == bool(outcome.curve)
    assert outcome.after["plain"] > 1e-4


@pytest.mark.parametrize(("name", "share"), [("full", 0.8), ("balanced", 1.0)])
def test_what_learns_gets_nearer_to_the_teacher(job: Job, name: str, share: float) -> None:
    own = Base.model_validate(small.raw_base(name) | {"rounding": "nearest"})
    _, _, outcome = done(job, own, "W3A6", epochs=10, clip=0.02)
    assert outcome.after["plain"] < share * outcome.before["plain"]
    assert len(outcome.curve) == 10 and outcome.curve[-1] < outcome.curve[0]


def test_numbers_that_are_learned_are_counted(job: Job) -> None:
    _, _, outcome = done(job, small.base("full"), epochs=1)
    # Queries, keys and values share what stands in front of them, so eight layers have five inputs
    # of 16 channels and one of 64, each with two factors, 4 x 4 or 8 x 8, a scale by channel and
    # two clips; and two clips a row of the weights.
    inputs, rows = [16] * 5 + [64], [96, 96, 16, 16, 16, 16, 64, 16]
    factors = [2 * size for size in inputs]
    wanted = sum(factors) + sum(inputs) + 2 * len(inputs) + 2 * sum(rows)
    assert outcome.learned == wanted


def test_rounding_to_the_nearest_changes_nothing_on_the_way(job: Job) -> None:
    _, _, outcome = done(job, small.base("nearest"))
    assert outcome.before == pytest.approx(outcome.after) and outcome.learned == 0


def test_gptq_makes_the_error_smaller(job: Job) -> None:
    own = Base.model_validate(small.raw_base("nearest") | {"rounding": "gptq"})
    _, _, outcome = done(job, own, "W3A8")
    assert outcome.after["plain"] < outcome.before["plain"]


def test_eight_bits_are_nearly_the_teacher(job: Job) -> None:
    _, given, outcome = done(job, small.base("full"), "W8A8", epochs=1)
    size = float(torch.cat([of_video(o) for o in given.records.outputs]).square().mean())
    assert outcome.after["plain"] < 1e-3 * size


def test_errors_weighted_by_attention_are_by_hand(job: Job) -> None:
    block, given, outcome = done(job, small.base("nearest"))
    calls, target = given.records.batch(range(6), torch.device("cpu"))
    with torch.no_grad():
        gap = (of_video(calls.call(block)) - of_video(target)).square().mean(2)
    share = given.received[:, : given.video]
    wanted = sum(
        float((gap[row] * share[row]).mean() / share[row].mean()) for row in range(len(gap))
    )
    assert outcome.after["received"] == pytest.approx(wanted / len(gap), rel=1e-4)
    assert given.video == small.VIDEO and given.received.shape == (6, small.VIDEO + small.TEXT)


def test_weights_of_tokens_change_what_is_learned(job: Job) -> None:
    _, given = small.observed(small.denoiser(1))
    weighing = tokens.with_text(given.received, given.video, 0.0, "apart")
    found = [done(job, small.base("full"), weighing=own)[2].after for own in (None, weighing)]
    assert found[0]["plain"] != pytest.approx(found[1]["plain"], rel=1e-4)


def test_the_same_seed_gives_the_same_codes(job: Job) -> None:
    first, second = (done(job, small.base("full"))[0] for _ in range(2))
    for one, two in zip(quantized(first).values(), quantized(second).values(), strict=True):
        assert torch.equal(one.codes().values, two.codes().values)


def test_salience_is_taken_step_by_step_from_the_teachers_layers(job: Job) -> None:
    net = small.denoiser(1)
    name, given = small.observed(net)
    inputs: dict[int, Tensor] = {}
    layer = net.get_submodule(f"{name}.attn1.to_q")
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.update({step: args[0]}))
    for step in range(3):
        rows = [row for row, own in enumerate(given.steps) if own == step]
        arguments, _ = given.records.batch(rows, torch.device("cpu"))
        arguments.call(net.get_submodule(name))
    hook.remove()
    block = small.swapped(net, small.base("balanced")).get_submodule(name)
    found = blocks._salience(block, quantized(block), given, 2)["attn1.to_q"]
    wanted = torch.stack([inputs[step].abs().amax((0, 1)) for step in range(3)])
    assert torch.allclose(found, wanted, atol=1e-5)


def test_salience_is_taken_behind_the_rotation(job: Job) -> None:
    """SmoothQuant at α = 1/2 makes the largest inputs and weights of the rotated layer alike."""
    net = small.denoiser(1)
    name, given = small.observed(net)
    block = small.swapped(net, small.base("static")).get_submodule(name)
    layers = blocks.start(block, name, given, small.base("static"), 2, 0)
    layer = layers[f"{name}.ff.net.2"]
    with plain(block):
        tops = maxima({"it": layer}, lambda: blocks._run(block, given.records, 2))["it"]
    assert torch.allclose(tops, layer.target().abs().amax(0), rtol=1e-3)
