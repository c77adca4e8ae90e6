"""The calibration set is what the teacher saw and gave, with its text and its mask."""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.q_vdit.samples import Samples, Whole, run
from tests.pipelines.q_vdit import small


def test_the_student_before_quantization_gives_the_kept_targets() -> None:
    """With the text's mask: the release's student was called without it."""
    start = small.ground()
    whole = Whole(start.taught.denoiser)
    torch.testing.assert_close(run(whole, start.records(), 5), start.samples.target)
    unmasked = run(whole, start.records(masked=False), 5)
    assert (unmasked - start.samples.target).abs().max() > 1e-2


def test_both_branches_of_guidance_are_samples() -> None:
    start = small.ground()
    samples, text = start.samples, start.text
    assert len(samples) == 2 * 2 * 3 and int(samples.given.sum()) == 6
    asked, empty = start.taught.read(samples.prompts)
    assert text.mask is not None and asked.mask is not None and empty.mask is not None
    for i in range(len(samples)):
        right = asked if samples.given[i] else empty
        assert torch.equal(text.tokens[i], right.tokens[i])
        assert right.mask is not None and torch.equal(text.mask[i], right.mask[i])
    # The two branches of a prompt share x and step, and differ in what was given.
    first, second = samples.x[:3], samples.x[3:6]
    assert torch.equal(first, second)
    assert not torch.allclose(samples.target[:3], samples.target[3:6])


def test_running_some_records_is_running_all_and_choosing() -> None:
    start = small.ground()
    whole, records = Whole(start.taught.denoiser), start.records()
    everything = run(whole, records, 12)
    torch.testing.assert_close(run(whole, records, 2, [7, 0, 3]), everything[[7, 0, 3]])


def test_a_saved_set_is_the_same(tmp_path: Path) -> None:
    samples = small.ground().samples
    samples.save(tmp_path)
    again = Samples.load(tmp_path)
    for name, value in vars(samples).items():
        assert torch.equal(getattr(again, name), value)
