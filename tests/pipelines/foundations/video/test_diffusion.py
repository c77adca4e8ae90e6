"""Noise schedule, v, and sampling against closed forms."""

import pytest
import torch
from torch import nn

from pipelines.foundations.video import diffusion
from pipelines.foundations.video.text import Text
from stages.core.errors import UserError
from tests.pipelines.foundations.video.small import drawn, scheduler

SHAPE = (2, 1, 4, 4)


def nothing(count):
    return Text(torch.zeros(count, 1, 1))


class Oracle(nn.Module):
    """The best possible denoiser for clips that are Gaussian around a constant.

    For x ~ N(m, s²), √ᾱ·x + √(1 − ᾱ)·ε = y gives E[x | y] by the usual formula, and from that
    E[ε | y] and E[v | y].
    """

    def __init__(self, noising, mean, std):
        super().__init__()
        self.noising, self.mean, self.std, self.seen = noising, mean, std, []

    def forward(self, y, t, text):
        self.seen.append((len(y), t.tolist()))
        a = self.noising.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
        root, rest = a.sqrt(), (1 - a).sqrt()
        gain = self.std**2 * root / (self.std**2 * a + 1 - a)
        x = self.mean + gain * (y - root * self.mean)
        noise = (y - root * x) / rest
        return root * noise - rest * x


@pytest.mark.parametrize("betas", ["squaredcos_cap_v2", "scaled_linear"])
def test_v_and_the_noisy_clip_give_back_clip_and_noise(betas) -> None:
    noising = scheduler(betas=betas)
    x, noise = drawn(3, *SHAPE).clamp(-1, 1), drawn(3, *SHAPE, seed=1)
    t = torch.tensor([0, 50, 99])
    y, v = noising.add_noise(x, noise, t), noising.get_velocity(x, noise, t)
    a = noising.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(a.sqrt() * y - (1 - a).sqrt() * v, x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((1 - a).sqrt() * y + a.sqrt() * v, noise, atol=1e-5, rtol=1e-5)


def test_zero_terminal_ends_in_noise_alone() -> None:
    assert float(scheduler(betas="scaled_linear", zero_terminal=True).alphas_cumprod[-1]) == 0
    assert float(scheduler(betas="scaled_linear").alphas_cumprod[-1]) > 0


def test_the_loss_is_zero_for_v_and_one_point_away_otherwise() -> None:
    noising = scheduler()
    x, noise, t = drawn(2, *SHAPE), drawn(2, *SHAPE, seed=1), torch.tensor([10, 60])
    v = noising.get_velocity(x, noise, t)

    class Knows(nn.Module):
        def forward(self, y, t, text):
            return v + self.off

    model = Knows()
    for off, expected in ((0.0, 0.0), (0.5, 0.25)):
        model.off = off
        value = diffusion.velocity_loss(model, noising, x, nothing(2), t, noise)
        assert float(value) == pytest.approx(expected)


def test_time_steps_fall_one_into_each_part() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        t = diffusion.spread(10, 100)
        assert sorted((t // 10).tolist()) == list(range(10))
    torch.manual_seed(0)
    firsts = torch.stack([diffusion.spread(3, 100)[0] for _ in range(400)]).float()
    assert 44 < float(firsts.mean()) < 56 and firsts.min() < 8 and firsts.max() > 91


def test_a_constant_is_generated_exactly() -> None:
    noising = scheduler()
    oracle = Oracle(noising, 0.25, 0.0)
    made = diffusion.sample(oracle, noising, nothing(2), nothing(2), drawn(2, *SHAPE), 10, 1.0)
    torch.testing.assert_close(made, torch.full_like(made, 0.25), atol=1e-4, rtol=0)


def test_the_spread_of_gaussian_clips_is_generated() -> None:
    """DDIM solves a linear equation here: noise is scaled by std in the limit of small steps."""
    noising = scheduler(clip=False)
    oracle, noise = Oracle(noising, 0.1, 0.3), drawn(2, *SHAPE)
    made = diffusion.sample(oracle, noising, nothing(2), nothing(2), noise, 100, 1.0)
    torch.testing.assert_close(made, 0.1 + 0.3 * noise, atol=0.03, rtol=0)


def test_guidance_is_linear_between_the_branches_and_one_batch() -> None:
    class Reads(nn.Module):
        def forward(self, x, t, text):
            assert len(x) == len(t) == len(text)
            return text.tokens.reshape(-1, 1, 1, 1, 1).expand_as(x)

    text, empty = Text(torch.tensor([5.0, 7.0])[:, None, None]), nothing(2)
    t = torch.tensor(3)
    x = drawn(2, *SHAPE)
    out, both = diffusion.guided(Reads(), x, t, text, empty, 3.0)
    assert out[0].unique().item() == 15 and out[1].unique().item() == 21 and len(both) == 4
    out, both = diffusion.guided(Reads(), x, t, text, empty, 1.0)
    assert out[0].unique().item() == 5 and len(both) == 2


def test_sampling_starts_at_noise_ends_clean_and_tells_its_observer() -> None:
    noising, seen = scheduler(), []
    oracle, noise = Oracle(noising, 0.0, 0.2), drawn(2, *SHAPE)
    diffusion.sample(
        oracle, noising, nothing(2), nothing(2), noise, 5, 2.0,
        observe=lambda n, t, x, both: seen.append((n, int(t), x.clone(), both.shape[0])),
    )  # fmt: skip
    assert [row[:2] for row in seen] == [(0, 99), (1, 79), (2, 59), (3, 39), (4, 19)]
    assert torch.equal(seen[0][2], noise) and {row[3] for row in seen} == {4}
    assert [count for count, _ in oracle.seen] == [4] * 5
    assert noising.num_inference_steps is None  # the teacher's own is untouched


def test_the_same_noise_gives_the_same_clips() -> None:
    noising = scheduler()
    oracle, noise = Oracle(noising, 0.0, 0.2), drawn(2, *SHAPE)
    one, two = (
        diffusion.sample(oracle, noising, nothing(2), nothing(2), noise, 5, 1.0) for _ in range(2)
    )
    assert torch.equal(one, two)


def test_a_clip_has_its_noise_whatever_stands_beside_it() -> None:
    both = diffusion.noise_for(["a", "b"], SHAPE, 0)
    assert torch.equal(both[1:], diffusion.noise_for(["b"], SHAPE, 0))
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, diffusion.noise_for(["a", "b"], SHAPE, 1))


def test_steps_that_do_not_divide_the_schedule_are_refused() -> None:
    with pytest.raises(UserError, match="30 sampling steps do not divide the 100"):
        diffusion.set_steps(scheduler(), 30, torch.device("cpu"))
