"""What is known of the families, on tiny networks of each of diffusers' classes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.model import build
from pipelines.foundations.video.text import Text
from pipelines.s2q_vdit import attention, nets
from stages.core.errors import UserError
from stages.quantize.capture import capture
from tests.pipelines.foundations.video.small import drawn, numbers, shape
from tests.pipelines.s2q_vdit import small

ROWS, WORDS = 3, 5


def cogvideox(across: int | None = None) -> tuple[Any, tuple[int, ...], Text]:
    from diffusers import CogVideoXTransformer3DModel

    net = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        time_embed_dim=8, text_embed_dim=16, num_layers=2, sample_width=4, sample_height=4,
        sample_frames=13, patch_size=2, patch_size_t=across, temporal_compression_ratio=4,
        max_text_seq_length=WORDS, use_rotary_positional_embeddings=True, patch_bias=across is None,
    )  # fmt: skip
    return net, (4, 4, 4, 4), Text(drawn(ROWS, WORDS, 16))


def wan() -> tuple[Any, tuple[int, ...], Text]:
    from diffusers import WanTransformer3DModel

    net = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=16, ffn_dim=16, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    return net, (3, 4, 4, 4), Text(drawn(ROWS, WORDS, 16))


def hunyuan() -> tuple[Any, tuple[int, ...], Text]:
    from diffusers import HunyuanVideoTransformer3DModel

    net = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=2, patch_size_t=1, text_embed_dim=16,
        pooled_projection_dim=8, rope_axes_dim=(2, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    mask = torch.arange(WORDS) < torch.tensor([[5], [3], [2]])
    return net, (3, 4, 4, 4), Text(drawn(ROWS, WORDS, 16), mask, drawn(ROWS, 8))


MAKERS: dict[str, Any] = {
    "cogvideox": cogvideox,
    "cogvideox-1.5": lambda: cogvideox(2),
    "wan": wan,
    "hunyuan": hunyuan,
}


def made(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Denoiser, Tensor, Text]:
    torch.manual_seed(0)
    net, size, text = MAKERS[name]()
    small.loud(net)
    # The table of rotary embeddings comes from diffusers' pipeline, which asks for transformers.
    monkeypatch.setattr(Denoiser, "_rotary", rotary)
    return Denoiser(net).eval().requires_grad_(False), drawn(ROWS, *size), text


def rotary(denoiser: Denoiser, x: Tensor) -> Any:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    config = denoiser.net.config
    side, frames = x.shape[-1] // 2, x.shape[1] // (config.patch_size_t or 1)
    crops = ((0, 0), (side, side))
    return get_3d_rotary_pos_embed(config.attention_head_dim, crops, (side, side), frames)


@pytest.mark.parametrize("name", MAKERS)
def test_every_block_of_a_family_is_seen_and_can_be_run_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser, x, text = made(name, monkeypatch)
    layout, names = nets.layout(denoiser), nets.block_names(denoiser)
    assert len(names) == 2
    attentions = {n: denoiser.get_submodule(f"{n}.{layout.attention}") for n in names}
    with (
        capture(denoiser, names, shared=layout.shared) as records,
        attention.watching(attentions) as sums,
        torch.no_grad(),
    ):
        denoiser(x, torch.tensor([10.0, 500.0, 900.0]), text)
    count = nets.patches(denoiser, x).shape[1]
    for block, found in records.items():
        given, target = found.batch([2, 0], torch.device("cpu"))
        again = given.call(denoiser.get_submodule(block))
        video, words = nets.of_video(target), nets.of_text(target)
        assert torch.allclose(nets.of_video(again), video, atol=1e-5)
        assert video.shape[:2] == (2, count)
        assert (words is None) == (name == "wan") and (words is None or words.shape[1] == WORDS)
        received = torch.cat(sums[block])
        heads = denoiser.net.config.num_attention_heads
        whole = float(heads * received.shape[1])
        assert torch.allclose(received.sum(1), torch.full((ROWS,), whole))
        ordered = nets.video_first(received, 0 if words is None else WORDS, layout.text_first)
        assert ordered.shape == (ROWS, count + (0 if words is None else WORDS))
        if name == "hunyuan":
            # Words that only fill up get no attention, so the text stands where it is said to.
            assert bool((ordered[1, count + 3 :] == 0).all()) and bool((ordered[0] > 0).all())


def test_sums_are_those_after_norm_and_rotary_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.embeddings import apply_rotary_emb

    denoiser, x, text = made("cogvideox", monkeypatch)
    name = nets.block_names(denoiser)[1]
    part = denoiser.get_submodule(f"{name}.attn1")
    with (
        capture(denoiser, [f"{name}.attn1"], shared=("image_rotary_emb",)) as records,
        attention.watching({name: part}) as sums,
        torch.no_grad(),
    ):
        denoiser(x, torch.tensor([10, 500, 900]), text)
    given, _ = records[f"{name}.attn1"].batch(range(ROWS), torch.device("cpu"))
    tokens = torch.cat([given.kwargs["encoder_hidden_states"], given.kwargs["hidden_states"]], 1)
    heads = denoiser.net.config.num_attention_heads
    query, key = (
        norm(layer(tokens).unflatten(2, (heads, -1)).transpose(1, 2))
        for layer, norm in ((part.to_q, part.norm_q), (part.to_k, part.norm_k))
    )
    plain = query.clone()
    for each in (query, key):
        rotated = apply_rotary_emb(each[:, :, WORDS:], given.kwargs["image_rotary_emb"])
        each[:, :, WORDS:] = rotated
    matrix = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    assert torch.allclose(torch.cat(sums[name]), matrix.sum((1, 2)), atol=1e-4)
    other = (plain @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    assert not torch.allclose(torch.cat(sums[name]), other.sum((1, 2)), atol=1e-3)


@pytest.mark.parametrize("name", MAKERS)
def test_patches_are_what_the_network_embeds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedding is a linear map of each token alone: so a change of a token changes one row."""
    denoiser, x, _ = made(name, monkeypatch)
    size = denoiser.net.config.patch_size
    across, side = (size[0], size[1]) if isinstance(size, tuple | list) else (None, size)
    across = across or getattr(denoiser.net.config, "patch_size_t", None) or 1
    found = nets.patches(denoiser, x)
    frames, channels, height, width = x.shape[1:]
    token = 0
    for t in range(0, frames, across):
        for i in range(0, height, side):
            for j in range(0, width, side):
                block = x[:, t : t + across, :, i : i + side, j : j + side]
                assert torch.equal(found[:, token], block.flatten(1))
                token += 1
    assert found.shape == (ROWS, token, across * channels * side * side)
    assert torch.equal(nets.patches(denoiser, x[None]), found[None])


def test_factorised_attention_has_no_joint_weights() -> None:
    with pytest.raises(UserError, match="'latte' attends within a frame"):
        nets.layout(build(numbers("latte"), shape()))
