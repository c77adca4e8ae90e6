"""What full precision and quantized models answer: closed forms."""

import copy
import math
from pathlib import Path

import pytest
import torch

from pipelines.foundations.video.data import Clips, pixels
from pipelines.foundations.video.measure_arms import BITS, Answers, ask, true_bits
from pipelines.foundations.video.measure_held import Held, along
from stages.core.errors import UserError
from stages.core.files import listing
from stages.evaluate.diffusion import LIMIT_DB, MOST
from tests.pipelines.foundations.video import measured, small


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    return measured.held(tmp_path_factory.mktemp("held"))


def answers(held: Held, model: torch.nn.Module, clips: int = measured.COUNT) -> Answers:
    return ask(model, held, 3, clips, measured.layers(model))


def test_a_quantizer_that_is_off_has_no_noise_and_does_not_stray(held: Held) -> None:
    off = measured.student(held.asked.taught.denoiser, "off")
    found = answers(held, off)
    assert found.prediction.shape == (3, measured.FORCED)
    assert (found.prediction == LIMIT_DB).all() and (found.noise == LIMIT_DB).all()
    assert found.drift.shape == (6, measured.COUNT) and (found.drift == 0).all()
    assert torch.equal(found.clips, held.clips)


@pytest.mark.parametrize("share", [0.1, 0.01])
def test_a_known_error_has_the_known_ratio(held: Held, share: float) -> None:
    """(1 + s)·v in both branches of guidance is (1 + s) times the guided v: 20·log₁₀(1/s) dB."""
    off = measured.student(held.asked.taught.denoiser, "off")
    found = answers(held, measured.Louder(off, share))
    expected = torch.full_like(found.prediction, -20 * math.log10(share))
    torch.testing.assert_close(found.prediction, expected, atol=1e-3, rtol=0)
    # Both branches see the error that walks gather: it grows from nothing.
    assert (found.drift[0] == 0).all() and (found.drift[-1] > 0).all()


def test_the_ratio_of_the_noise_differs_by_what_no_arm_changes(held: Held) -> None:
    """ε's error is √ᾱ times v's, so the two ratios differ by 10·log₁₀(|ε|² / ᾱ|v|²) in all arms."""
    gaps = []
    for bits in ("W4A8", "W8A4"):
        found = answers(held, measured.student(held.asked.taught.denoiser, bits), 0)
        assert (found.prediction < LIMIT_DB).all()
        gaps.append(found.noise - found.prediction)
        assert (found.noise[1:] < LIMIT_DB).all()
    # At first the state is nearly all noise, and the ratio of the noise beyond its limit.
    torch.testing.assert_close(gaps[0][1:], gaps[1][1:], atol=1e-6, rtol=0)


def test_more_bits_are_nearer(held: Held) -> None:
    means = [
        float(
            answers(held, measured.student(held.asked.taught.denoiser, bits), 0).prediction.mean()
        )
        for bits in ("W2A8", "W4A8", "W8A8")
    ]
    assert means == sorted(means) and means[2] > means[0] + 10


def test_what_is_no_number_is_the_worst_and_looks_grey(held: Held) -> None:
    broken = measured.Louder(measured.student(held.asked.taught.denoiser, "off"), math.nan)
    found = answers(held, broken)
    assert (found.prediction == -LIMIT_DB).all() and (found.drift[-1] == MOST).all()
    assert (found.clips == 128).all()


def test_batches_decide_the_speed_alone(tmp_path: Path, held: Held) -> None:
    other = measured.held(tmp_path, batch=3)
    model = measured.student(held.asked.taught.denoiser, "W4A6")
    first, second = answers(held, model), answers(other, model)
    torch.testing.assert_close(first.prediction, second.prediction, atol=1e-2, rtol=0)
    assert (first.clips.int() - second.clips.int()).abs().max() <= 1


def test_clips_that_are_asked_for_alone_are_the_first_ones(held: Held) -> None:
    model = measured.student(held.asked.taught.denoiser, "W4A6")
    assert answers(held, model, 0).clips.shape[0] == 0
    few, all_of_them = answers(held, model, 4), answers(held, model)
    assert torch.equal(few.clips, all_of_them.clips[:4])
    assert torch.equal(few.prediction, all_of_them.prediction)


def test_full_precision_walks_as_the_sampler_does(held: Held) -> None:
    asked = held.asked
    end = asked.sample(asked.taught.denoiser, slice(0, 4), None)
    torch.testing.assert_close(held.walk.end[:4], end)
    assert torch.equal(asked.seen(held.walk.end), held.clips)
    assert held.walk.states.shape[:2] == (5, measured.COUNT)
    assert held.walk.predictions.shape[:2] == (5, measured.FORCED)
    assert not torch.equal(held.clips, held.again)
    part = along(held.walk, slice(1, 3), [0, 4])
    assert torch.equal(part.states[1], held.walk.states[4, 1:3])
    assert torch.equal(part.times, held.walk.times[[0, 4]])


def test_prompts_and_real_clips_are_of_the_test_split(tmp_path: Path, held: Held) -> None:
    clips = Clips.load(small.prepared(tmp_path / "clips"))
    ids, real, prompts, labels = clips.fixed("test")
    captions = clips.captions("test")
    assert sorted(held.asked.ids) == ids[: measured.COUNT] != held.asked.ids
    for place, name in enumerate(held.asked.ids):
        at = ids.index(name)
        assert torch.equal(held.asked.prompts[place], prompts[at])
        assert torch.equal(held.labels[place], labels[at])
        assert torch.equal(held.real[place], pixels(real[at]))
        assert held.captions[place] == captions[at]


def test_full_precision_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured.held(tmp_path)
    folder = tmp_path / "held-6-4-4"
    before = [(path.name, path.read_bytes()) for path in listing(folder)]
    monkeypatch.setattr("pipelines.foundations.video.measure_held._walked", None)
    again = measured.held(tmp_path)
    assert torch.equal(first.clips, again.clips) and torch.equal(first.walk.end, again.walk.end)
    assert [(path.name, path.read_bytes()) for path in listing(folder)] == before


def test_more_clips_than_the_splits_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"free\.clips is 9, .* 8 and 8 clips"):
        measured.held(tmp_path, count=9)


def test_answers_are_kept_whole(tmp_path: Path, held: Held) -> None:
    assert Answers.load(tmp_path) is None
    found = answers(held, measured.student(held.asked.taught.denoiser, "W4A6"))
    found.keep(tmp_path)
    known = Answers.load(tmp_path)
    assert known is not None
    assert all(torch.equal(value, getattr(known, name)) for name, value in vars(found).items())


def test_bits_are_counted_by_hand(held: Held) -> None:
    model = measured.student(held.asked.taught.denoiser, "W4A6")
    own = measured.layers(model)
    found = true_bits(model, own)
    assert list(found) == list(BITS)
    assert found["weight_bits"] == 4 and found["input_bits"] == 6
    shapes = [model.get_submodule(name).weight.shape for name in own]
    weights, rows = sum(r * c for r, c in shapes), sum(r for r, _ in shapes)
    # A step of 32 bits and a zero point of 4 for each output; zero points fill whole bytes.
    assert found["bits_per_weight"] == pytest.approx(4 + 36 * rows / weights, rel=0.01)
    plain = copy.deepcopy(held.asked.taught.denoiser)
    half = true_bits(model, [*own, *_rest(plain, own)])
    assert 4 < half["weight_bits"] < 16


def _rest(model: torch.nn.Module, own: list[str]) -> list[str]:
    found = (n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear))
    return [name for name in found if name not in own]
