"""A folder of video files, in each of the three ways in which captions can be given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipelines.foundations.video import folder
from pipelines.foundations.video.data import SPLITS, Clips
from pipelines.foundations.video.folder import Film
from pipelines.foundations.video.made import Shares
from stages.core.errors import UserError
from stages.prepare.rasters import fit
from tests.pipelines.foundations.video.sources import FOLDER, SHARES, make
from tests.stages.prepare.films import film, write

CLIPS = {"train": 100, "valid": 100, "test": 100}


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("A  caption\nin two lines.\n" if name.endswith("txt") else "")


def films(count: int, **change: Any) -> list[Film]:
    return [Film(**({"path": f"{n}.mp4", "caption": "a", "kind": "k", "split": None} | change))
            for n in range(count)]  # fmt: skip


def test_captions_from_the_table_from_beside_and_from_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.MP4", "b.txt", "hand_waving/c.avi", "hand_waving/d.webm",
          "hand_waving/d.txt", "notes.md")  # fmt: skip
    rows = 'file,caption,class,split\na.mp4,"A dog, running.",dog,test\nb.MP4,,,\n'
    (tmp_path / "captions.csv").write_text(rows)
    assert folder.find(tmp_path) == [
        Film("a.mp4", "A dog, running.", "dog", "test"),
        Film("b.MP4", "A caption in two lines.", "all", None),
        Film("hand_waving/c.avi", "hand waving", "hand_waving", None),
        Film("hand_waving/d.webm", "A caption in two lines.", "hand_waving", None),
    ]


def test_what_is_wrong_with_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        folder.find(tmp_path / "no")
    with pytest.raises(UserError, match="holds no video file"):
        folder.find(tmp_path)
    touch(tmp_path, "a.mp4")
    with pytest.raises(UserError, match=r"a\.mp4 has no caption: give it a row in captions\.csv"):
        folder.find(tmp_path)
    for text, word in (
        ("file,text\na.mp4,b\n", "needs the columns file and caption"),
        ("file,caption\nb.mp4,b\n", "names 'b.mp4', which is not there"),
        ("file,caption,split\na.mp4,b,dev\n", "is in split 'dev'; allowed: train, valid, test"),
    ):
        (tmp_path / "captions.csv").write_text(text)
        with pytest.raises(UserError, match=word):
            folder.find(tmp_path)


def test_files_are_dealt_out_whole_and_shuffled() -> None:
    dealt = folder.deal(films(20), Shares.model_validate(SHARES), seed=0)
    assert [len(dealt[split]) for split in SPLITS] == [12, 4, 4]
    names = [film.path for split in SPLITS for film in dealt[split]]
    assert len(set(names)) == 20 and names != [film.path for film in films(20)]


def test_splits_that_are_given_are_kept() -> None:
    given = [*films(5), *films(3, path="t", split="test")]
    dealt = folder.deal(given, Shares.model_validate(SHARES), seed=0)
    assert [film.path for film in dealt["test"]].count("t") == 3
    assert [len(dealt[split]) for split in SPLITS] == [3, 1, 4]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pytest.importorskip("av")
    for n in range(5):
        write(tmp_path / f"films/{'odd' if n % 2 else 'even'}/{n}.mkv", film(9 + n, seed=n))
    return tmp_path


def test_windows_follow_one_another_from_the_beginning(root: Path) -> None:
    out = make(root, source="folder", folder=FOLDER | {"root": "films"}, clips=CLIPS)
    clips = Clips.load(out)
    assert clips.dataset == "films" and clips.classes == {"class": ["even", "odd"]}
    assert {split: clips.count(split) for split in SPLITS} == {"train": 6, "valid": 2, "test": 2}
    assert clips.manifest["sources"] == {"train": 3, "valid": 1, "test": 1}
    assert clips.manifest["from"] == "films"
    windows = {
        (n, w): fit(film(9 + n, seed=n)[4 * w : 4 * w + 4], 12, 12)
        for n in range(5)
        for w in range(2)
    }
    seen = {}
    for split in SPLITS:
        stored = load_file(out / f"{split}.safetensors")
        for clip, (kind,) in zip(stored["clips"], stored["labels"], strict=True):
            found = [key for key, window in windows.items() if (window == clip).all()]
            assert len(found) == 1 and found[0][0] % 2 == kind
            seen[found[0]] = split
    assert len(seen) == 10
    assert all(seen[n, 0] == seen[n, 1] for n in range(5))


def test_no_more_clips_than_wanted_and_frames_left_out(root: Path) -> None:
    own = FOLDER | {"root": "films", "every": 3}
    out = make(root, source="folder", folder=own, clips=CLIPS | {"train": 2}, frames=3)
    stored = load_file(out / "train.safetensors")["clips"]
    assert len(stored) == 2
    shown = [fit(film(9 + n, seed=n)[:9:3], 12, 12) for n in range(5)]
    for clip in stored:
        assert any(np.array_equal(clip, window) for window in shown)


def test_files_that_are_all_too_short_are_told(root: Path) -> None:
    own = FOLDER | {"root": "films", "every": 5}
    with pytest.raises(
        UserError, match="gives no clip for 'train': of its 3 files none has 16 frames"
    ):
        make(root, source="folder", folder=own, clips=CLIPS)
