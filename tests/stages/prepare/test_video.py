"""Frames out of files that PyAV wrote here, without loss."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core.errors import UserError
from stages.prepare import video
from tests.stages.prepare.films import film, write


def test_frames_come_back_as_they_were_written(tmp_path: Path) -> None:
    pytest.importorskip("av")
    frames = film(7)
    write(tmp_path / "a.mkv", frames)
    found = np.stack(list(video.frames(tmp_path / "a.mkv", "a")))
    np.testing.assert_array_equal(found, frames)
    from_memory = list(video.frames((tmp_path / "a.mkv").read_bytes(), "a"))
    np.testing.assert_array_equal(np.stack(from_memory), frames)


def test_every_so_many_th_frame(tmp_path: Path) -> None:
    pytest.importorskip("av")
    frames = film(7)
    write(tmp_path / "a.mkv", frames)
    found = np.stack(list(video.frames(tmp_path / "a.mkv", "a", every=3)))
    np.testing.assert_array_equal(found, frames[[0, 3, 6]])


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(UserError, match="'a' cannot be read as a video"):
        list(video.frames(tmp_path / "a.mp4", "a"))
    with pytest.raises(UserError, match="'b' cannot be read as a video"):
        list(video.frames(tmp_path / "b.mp4", "b"))


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(module: str, *rest: Any) -> Any:
        if module.split(".")[0] == "av":
            raise ImportError(module)
        return original(module, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for ask in (lambda: list(video.frames(b"", "a")), video.version):
        with pytest.raises(UserError, match=r"needs the package av: \.venv/bin/pip install"):
            ask()
