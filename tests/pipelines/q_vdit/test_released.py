"""What the release does otherwise."""

from __future__ import annotations

import pytest
import torch

from pipelines.q_vdit.released import Doubled, check_channels, scrambled
from pipelines.q_vdit.tqe import TokenAware
from stages.core.errors import UserError
from tests.pipelines.q_vdit.small import drawn


def test_no_scrambled_row_is_a_frame() -> None:
    """With eight channels and sixteen frames, row 0 is channel 0 of frames 0 to 7."""
    channels, frames = torch.arange(8.0), torch.arange(16.0)
    name = 100 * channels[None, :] + frames[:, None]  # (T, C): which channel of which frame
    clip = name[None, :, :, None, None].expand(1, 16, 8, 2, 2)
    rows = scrambled(clip)
    assert rows.shape == (1, 16, 8 * 4)
    assert set(rows[0, 0].tolist()) == {float(f) for f in range(8)}
    assert set(rows[0, 1].tolist()) == {float(f) for f in range(8, 16)}
    assert set(rows[0, 2].tolist()) == {100.0 + f for f in range(8)}


def test_with_one_channel_nothing_is_scrambled_so_such_an_arm_is_refused() -> None:
    clip = drawn(2, 4, 1, 3, 3)
    assert torch.equal(scrambled(clip), clip.flatten(2))
    with pytest.raises(UserError, match="games"):
        check_channels(1)
    check_channels(3)


def test_the_doubled_branch_counts_twice_at_first() -> None:
    frames, inputs, outputs = 4, 6, 5
    made = [
        kind(
            inputs, outputs, frames=frames, place="tokens",
            generator=torch.Generator().manual_seed(0),
        )
        for kind in (Doubled, TokenAware)
    ]  # fmt: skip
    for branch in made:
        branch.beta.data = drawn(outputs)
    x = drawn(3, frames, inputs)
    twice, once = (branch(x) for branch in made)
    torch.testing.assert_close(twice, 2 * once)
    assert made[0].gain is not None
    made[0].gain.data = drawn(frames, seed=1)
    gain = 1 + made[0].gain[:, None]
    torch.testing.assert_close(made[0](x), once * gain)
