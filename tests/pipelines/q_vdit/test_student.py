"""A quantized network at its start, and as its file has it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.q_vdit import student as module
from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.places import slabs
from pipelines.q_vdit.tqe import TokenAware
from stages.core.errors import UserError
from stages.core.files import write_json
from stages.quantize import store
from stages.quantize.capture import watching
from stages.quantize.layers import fix_all, quantized, set_state
from tests.pipelines.q_vdit import small
from tests.pipelines.q_vdit.small import SMOOTH, TERM, TOKEN, drawn

ARMS: dict[str, dict[str, Any]] = {
    "nearest": {},
    "smooth, rotated": SMOOTH | {"rotated": True},
    "svd": SMOOTH | {"beside": "svd", "rank": 2},
    "token": TOKEN | SMOOTH,
    "released": {"inner": 3, "beside": "token", "gain": "doubled", "scope": "model"},
}


def test_the_branch_gives_nothing_at_first() -> None:
    start = small.ground()
    with_it, without = (small.output(small.student(start, **arm), start) for arm in (TOKEN, {}))
    assert torch.equal(with_it, without)


def test_with_both_quantizers_off_it_is_the_teacher_and_the_teacher_is_left_alone() -> None:
    start = small.ground()
    before = copy.deepcopy(start.taught.denoiser.state_dict())
    made = small.student(start, **TOKEN)
    set_state(made, weights=False, inputs=False)
    assert torch.equal(small.output(made, start), small.output(start.taught.denoiser, start))
    after = start.taught.denoiser.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_fewer_bits_are_further_from_the_teacher() -> None:
    start = small.ground()
    errors = [
        float((small.output(small.student(start, cell), start) - start.samples.target).norm())
        for cell in ("W8A8-all", "W4A6-mix", "W3A6-all")
    ]
    assert errors == sorted(errors) and errors[0] < errors[-1] / 5


def test_a_sample_s_output_does_not_depend_on_its_companions() -> None:
    """Steps belong to tokens; the release shares them over the batch."""
    start = small.ground()
    made = small.student(start, "W3A6-all")
    together = small.output(made, start)
    alone = torch.cat([small.output(made, start, [i]) for i in range(len(start.samples))])
    # A last digit may move a code by one, so a few entries may differ a little.
    assert (together - alone).abs().mean() < 1e-3 * together.abs().mean()


def test_layers_with_one_input_share_what_is_made_of_it_and_no_number_changes() -> None:
    start = small.ground()
    made = small.student(start, "W3A6-all", **TOKEN)
    layers = quantized(made)
    block = "net.transformer_blocks.0"
    to_q, to_k, words = (layers[f"{block}.{n}"] for n in ("attn1.to_q", "attn1.to_k", "attn2.to_k"))
    assert to_q.inputs is to_k.inputs is not words.inputs
    assert words.inputs is layers[f"{block}.attn2.to_v"].inputs
    together = small.output(made, start)
    for layer in layers.values():
        layer.once = None
    assert torch.equal(small.output(made, start), together)
    apart = quantized(small.student(start, **SMOOTH))
    assert apart[f"{block}.attn1.to_q"].inputs is not apart[f"{block}.attn1.to_k"].inputs


def test_gains_are_the_mean_of_equation_9_over_samples() -> None:
    start = small.ground()
    made = small.student(start, **TOKEN)
    name = "net.temporal_transformer_blocks.0.attn1.to_q"
    seen: list[torch.Tensor] = []
    layer = start.taught.denoiser.get_submodule(name)
    with watching({name: layer}, lambda _, x: seen.append(x)):
        small.output(start.taught.denoiser, start)
    count = len(start.samples)
    branch = quantized(made)[name]
    assert isinstance(branch.beside, TokenAware) and branch.inputs is not None
    frames, rounded = (
        slabs(x, small.FRAMES, "tokens", count).double() for x in (seen[0], branch.inputs(seen[0]))
    )
    near = (frames * rounded).sum(-1) / (frames.norm(dim=-1) * rounded.norm(dim=-1))
    share = frames.abs().sum(-1) / frames.abs().sum((1, 2))[:, None]
    wanted = ((1 - near).softmax(-1) / share).mean(0)
    assert branch.beside.gain is not None
    torch.testing.assert_close(branch.beside.gain.double(), wanted, rtol=1e-4, atol=1e-5)
    assert branch.beside.gain.std() > 1e-4


def test_gains_do_not_depend_on_the_batch() -> None:
    start = small.ground()
    made = small.student(start, **TOKEN)
    again = copy.deepcopy(made)
    module.measure_gains(again, start.records(), small.FRAMES, 5)
    for name, layer in quantized(made).items():
        other = quantized(again)[name].beside
        assert isinstance(layer.beside, TokenAware) and isinstance(other, TokenAware)
        if layer.beside.gain is not None and other.gain is not None:
            torch.testing.assert_close(layer.beside.gain, other.gain)


@pytest.mark.parametrize("name", ARMS)
def test_a_file_gives_the_same_network_back(tmp_path: Path, name: str) -> None:
    start, arm = small.ground(), Arm.model_validate(ARMS[name])
    made = small.student(start, **ARMS[name])
    for layer in quantized(made).values():
        if isinstance(layer.beside, TokenAware):
            layer.beside.beta.data = 0.1 * drawn(layer.out_features)
    fix_all(made)
    store.save(made, tmp_path / module.MODEL, dense=True)
    write_json(tmp_path / module.TRAINING, {"arm": arm.model_dump()})
    again = module.load(tmp_path, start.taught)
    assert torch.equal(small.output(again, start), small.output(made, start))


def test_scrambled_frames_need_several_channels() -> None:
    wrong = {"inner": 1, "scope": "model", "temporal": TERM | {"frames": "scrambled"}}
    with pytest.raises(UserError, match="one channel"):
        small.student(small.ground(), **wrong)
    small.student(small.ground(channels=2), **wrong)
