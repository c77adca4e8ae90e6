"""Clips as networks are given them."""

from pathlib import Path

import pytest
import torch

from pipelines.foundations.video.data import Clips, normal, pixels
from stages.core.errors import UserError
from tests.pipelines.foundations.video.sources import lay, make


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    project = tmp_path_factory.mktemp("project")
    lay(project)
    return Clips.load(make(project))


def test_what_it_says_of_itself(clips: Clips) -> None:
    assert (clips.dataset, clips.source) == ("Moving MNIST", "digits")
    assert (clips.frames, clips.channels, clips.size) == (4, 1, (12, 12))
    assert clips.classes == {"digit": ["3", "8"], "direction": ["right", "up-left"]}
    assert [clips.count(split) for split in ("train", "valid", "test")] == [12, 4, 5]
    assert clips.length == 8 and clips.vocabulary[:2] == ["<pad>", "<unknown>"]


def test_fixed_sets(clips: Clips) -> None:
    ids, x, prompts, labels = clips.fixed("test")
    assert ids == [f"test-{n:05d}" for n in range(5)]
    assert x.shape == (5, 4, 1, 12, 12) and x.dtype == torch.float32 and x.is_contiguous()
    assert x.min() == -1 and 0 < x.max() <= 1
    assert prompts.shape == (5, 8) and prompts.dtype == labels.dtype == torch.int64
    assert labels.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 0]]
    said = [" ".join(clips.vocabulary[word] for word in row if word) for row in prompts.tolist()]
    assert said == clips.captions("test")


def test_a_batch_depends_on_seed_and_step_alone(clips: Clips) -> None:
    x, prompts, index = clips.batch(3, 2, 5)
    clips.batch(3, 1, 5)
    for one, other in zip((x, prompts, index), clips.batch(3, 2, 5), strict=True):
        assert torch.equal(one, other)
    _, every, asked, _ = clips.fixed("train")
    assert torch.equal(every[index], x) and torch.equal(asked[index], prompts)
    assert not torch.equal(clips.batch(4, 2, 5)[2], index)


def test_an_epoch_shows_each_clip_once_and_the_next_in_another_order(clips: Clips) -> None:
    steps = [clips.batch(0, step, 5)[2] for step in range(1, 13)]
    assert all(len(step) == 5 for step in steps)
    epochs = torch.cat(steps).view(5, 12)  # batches run on over an epoch's end
    assert (epochs.sort(1).values == torch.arange(12)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 5
    several = clips.batch(0, 1, 30)[2]
    assert torch.equal(several, torch.cat(steps)[:30])


def test_kinds_are_what_can_be_asked_for(clips: Clips) -> None:
    captions, prompts, labels = clips.kinds()
    assert labels.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert captions[1] == "a 3 moving up and to the left"
    assert torch.equal(prompts, clips.encode(captions)) and len(prompts.unique(dim=0)) == 4


def test_the_empty_prompt_is_padding(clips: Clips) -> None:
    assert clips.encode([""]).tolist() == [[0] * 8]
    assert clips.encode(["a 7"])[0, 1] == 1  # unknown


def test_pixels_undo_what_normal_does() -> None:
    stored = torch.arange(256, dtype=torch.uint8).view(1, 2, 4, 16, 2)
    x = normal(stored)
    assert x.shape == (1, 2, 2, 4, 16) and x[0, 0, 1, 0, 0] == pytest.approx(1 / 127.5 - 1)
    assert torch.equal(pixels(x), stored)
    assert pixels(torch.tensor([-7.0, 7.0]).view(1, 1, 1, 1, 2)).flatten().tolist() == [0, 255]


def test_what_is_not_there_is_told(clips: Clips, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        Clips.load(tmp_path)
    with pytest.raises(UserError, match="no split 'dev'; it has train, valid, test"):
        clips.fixed("dev")
