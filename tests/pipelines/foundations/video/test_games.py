"""Games played by ale-py, where it is installed."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

from pipelines.foundations.video import games
from pipelines.foundations.video.data import Clips
from stages.core.errors import UserError
from tests.pipelines.foundations.video.sources import GAMES, make

CLIPS = {"train": 10, "valid": 3, "test": 3}


def recipe(**change: Any) -> games.Games:
    return games.Games.model_validate(GAMES | change)


def test_captions_name_game_and_action() -> None:
    assert games.caption("space_invaders", "left") == "space invaders with the stick to the left"


def test_clips_are_balanced_labelled_and_move(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    clips = Clips.load(make(tmp_path, source="games", clips=CLIPS, height=24, width=20))
    assert clips.dataset == clips.source == "games"
    assert (clips.channels, clips.size) == (3, (24, 20))
    assert clips.classes == {"game": ["pong", "breakout"], "action": ["noop", "left", "right"]}
    _, x, _, labels = clips.fixed("train")
    assert x.shape == (10, 4, 3, 24, 20)
    assert labels[:6].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert clips.captions("train")[4] == "breakout with the stick to the left"
    assert (x.diff(dim=1) != 0).flatten(1).any(1).all()


def test_a_clip_is_a_function_of_its_name(tmp_path: Path) -> None:
    """Whatever was played before it, and whichever split it is in, but for chance's own name."""
    pytest.importorskip("ale_py")
    one = make(tmp_path, "one", source="games", clips=CLIPS)
    two = make(tmp_path, "two", source="games", clips=CLIPS | {"train": 4, "valid": 2})
    read = {
        (name, split): load_file(out / f"{split}.safetensors")["clips"]
        for name, out in (("one", one), ("two", two))
        for split in CLIPS
    }
    np.testing.assert_array_equal(read["one", "train"][:4], read["two", "train"])
    np.testing.assert_array_equal(read["one", "test"], read["two", "test"])
    assert (read["one", "test"][0] != read["one", "train"][0]).any()


def test_actions_that_a_game_does_not_know_are_left_out() -> None:
    pytest.importorskip("ale_py")
    assert "up" not in games.Console("breakout", 1).actions
    assert "fire" in games.Console("breakout", 1).actions


def test_what_cannot_be_played_is_told(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    with pytest.raises(UserError, match="unknown game 'tic_tac'; allowed: adventure, "):
        make(tmp_path, "a", source="games", games=GAMES | {"games": ["tic_tac"]})
    with pytest.raises(UserError, match=r"breakout knows none of .*; it knows fire, left, noop"):
        make(tmp_path, "b", source="games", games=GAMES | {"actions": ["up"]})


def test_a_game_that_is_always_over_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Over:
        actions = {"noop": None}  # noqa: RUF012
        reset = screen = lambda self: np.zeros((2, 2, 3), dtype=np.uint8)
        step = lambda self, action: False  # noqa: E731

    with pytest.raises(UserError, match="50 games ended before 4 frames were taken"):
        games._film(Over(), "noop", recipe(), 4, (0, "train", 0))  # type: ignore[arg-type]


def test_without_ale_py_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(module: str, *rest: Any) -> Any:
        if module.split(".")[0] == "ale_py":
            raise ImportError(module)
        return original(module, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"\.venv/bin/pip install -c constraints\.txt ale-py"):
        games.Console("pong", 1)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"games": ["pong", "pong"]}, "stands twice"),
        ({"actions": ["jump"]}, "actions"),
        ({"least": 21}, "least is more than most"),
        ({"every": 0}, "every"),
    ],
)
def test_impossible_recipes_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        recipe(**change)
