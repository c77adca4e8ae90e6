"""Which axis of a layer's inputs runs over frames."""

from __future__ import annotations

import pytest
import torch

from pipelines.q_vdit import plan
from pipelines.q_vdit.places import place_of, scaled, slabs, temporal_attention
from stages.quantize.capture import watching
from tests.pipelines.q_vdit import small


def test_layers_of_latte_by_where_their_frames_are() -> None:
    spatial, temporal = "net.transformer_blocks.3.", "net.temporal_transformer_blocks.3."
    for end in ("attn1.to_q", "attn2.to_q", "attn2.to_out.0", "ff.net.2"):
        assert place_of(spatial + end) == "rows"
    for end in ("attn1.to_v", "ff.net.0.proj"):
        assert place_of(temporal + end) == "tokens"
    assert place_of(spatial + "attn2.to_k") == place_of(spatial + "attn2.to_v") == "nowhere"
    assert temporal_attention(temporal + "attn1.to_q")
    assert not temporal_attention(temporal + "ff.net.2")
    assert not temporal_attention(spatial + "attn1.to_q")
    with pytest.raises(ValueError, match="no layer of"):
        place_of("net.proj_out")


def test_the_inputs_of_every_layer_have_frames_there() -> None:
    """Run the network on clips whose frames differ, and see which axis they came out on."""
    start = small.ground()
    net, samples, spots = start.taught.denoiser, 3, (small.SIDE // 4) ** 2
    seen: dict[str, tuple[int, ...]] = {}
    modules = {name: net.get_submodule(name) for name in plan.layers(net)}
    with watching(modules, lambda name, x: seen.update({name: tuple(x.shape[:2])})):
        small.output(net, start, [0, 1, 2])
    assert set(seen) == set(modules)
    for name, shape in seen.items():
        place = place_of(name)
        if place == "rows":
            assert shape == (samples * small.FRAMES, spots)
        elif place == "tokens":
            assert shape == (samples * spots, small.FRAMES)
        else:
            assert shape[1] == start.text.tokens.shape[1]


def test_a_gain_reaches_the_tokens_of_its_frame_alone() -> None:
    frames, gain = 3, torch.tensor([1.0, 10.0, 100.0])
    rows = scaled(torch.ones(2 * frames, 5), gain, "rows")
    tokens = scaled(torch.ones(2 * 5, frames), gain, "tokens")
    for sample in range(2):
        for i in range(frames):
            assert (rows[sample * frames + i] == gain[i]).all()
    for row in tokens:
        assert torch.equal(row, gain)


def test_slabs_gather_what_belongs_to_a_frame() -> None:
    samples, frames, spots, width = 2, 3, 5, 4
    clip = small.drawn(samples, frames, spots, width)
    wanted = clip.flatten(2)
    assert torch.equal(slabs(clip.flatten(0, 1), frames, "rows", samples), wanted)
    folded = clip.transpose(1, 2).flatten(0, 1)
    found = slabs(folded, frames, "tokens", samples)
    assert torch.equal(found, wanted)
