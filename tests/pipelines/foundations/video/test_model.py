"""The networks as they are built: where they start, and what papers find in them."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.model import build
from pipelines.foundations.video.text import Text
from stages.core.errors import UserError
from tests.pipelines.foundations.video.small import FRAMES, NETS, SIDE, drawn, numbers, shape

X = drawn(2, FRAMES, 1, SIDE, SIDE)
T = torch.tensor([3, 70])


def text(seed=0, mask=None):
    return Text(drawn(2, 3, 8, seed=seed), mask)


def made(name, **changes):
    torch.manual_seed(0)
    return build(numbers(name, **changes), shape())


def awake(net):
    """Weights as training may leave them: nothing is zero."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.2)
    return net.eval()


@pytest.mark.parametrize("name", NETS)
def test_a_fresh_net_gives_zero_and_its_blocks_change_nothing(name) -> None:
    net = made(name)
    assert not net(X, T, text()).any()
    seen = []
    for block in net.net.transformer_blocks:
        block.register_forward_hook(
            lambda _, args, kwargs, out: seen.append(
                (kwargs.get("hidden_states", args[0] if args else None), out)
            ),
            with_kwargs=True,
        )
    net(X, T, text())
    before, after = seen[0]
    assert torch.equal(before, after[0] if isinstance(after, tuple) else after)


@pytest.mark.parametrize("name", NETS)
def test_every_weight_learns(name) -> None:
    net = made(name, layers=2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    start = {key: value.clone() for key, value in net.named_parameters()}
    for step in range(4):
        loss = (net(X, T, text(step)) - X).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # The last joint block's text tokens go nowhere.
    stuck = {key for key, value in net.named_parameters() if torch.equal(value, start[key])}
    assert not stuck


@pytest.mark.parametrize("name", NETS)
def test_time_text_and_every_frame_reach_the_output(name) -> None:
    net = awake(made(name))
    out = net(X, T, text())
    assert out.shape == X.shape
    for other in (net(X, T + 9, text()), net(X, T, text(1))):
        assert (other - out).abs().amax((1, 2, 3, 4)).min() > 1e-4
    moved = X.clone()
    moved[:, 0, 0, 0, 0] += 1  # reaches all frames
    assert (net(moved, T, text()) - out).abs().amax((2, 3, 4)).min() > 1e-5


@pytest.mark.parametrize("name", NETS)
def test_clips_of_a_batch_do_not_see_each_other(name) -> None:
    net = awake(made(name))
    both, one = net(X, T, text()), net(X[:1], T[:1], text()[:1])
    torch.testing.assert_close(both[:1], one, atol=1e-5, rtol=1e-4)


def test_papers_find_the_layers_that_they_quantize() -> None:
    linear = {
        name: {n for n, m in made(name).named_modules() if isinstance(m, nn.Linear)}
        for name in NETS
    }
    block = "net.transformer_blocks.0."
    parts = {
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "ff.net.0.proj",
        "ff.net.2",
    }
    assert {block + part for part in parts} <= linear["latte"] & linear["cogvideox"]
    assert {block + "attn2.to_q", f"net.temporal_transformer_blocks.0.{min(parts)}"} <= linear[
        "latte"
    ]
    assert {block + "norm1.linear", block + "norm2.linear"} <= linear["cogvideox"]


def test_the_factorised_net_does_not_read_masked_words() -> None:
    net, mask = awake(made("latte")), torch.tensor([[True, True, False], [True, False, False]])
    given, other = text(0, mask), text(0, mask)
    other.tokens[~mask] = 5.0
    torch.testing.assert_close(net(X, T, given), net(X, T, other))
    short = Text(given.tokens[:1, :2])
    torch.testing.assert_close(
        net(X[:1], T[:1], short), net(X, T, given)[:1], atol=1e-5, rtol=1e-4
    )  # masked is as good as not there


def test_patches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="8 pixels cannot be cut into patches of 3"):
        build(numbers("latte", patch=3), shape())


def test_heads_must_share_the_width() -> None:
    with pytest.raises(ValidationError, match="does not divide by 3 heads"):
        numbers("latte", heads=3)


def test_other_networks_are_refused() -> None:
    with pytest.raises(UserError, match="Linear is no video transformer known here: Latte"):
        Denoiser(nn.Linear(2, 2))
