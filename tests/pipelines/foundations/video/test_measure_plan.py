"""Which cells are judged, and how far."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.foundations.video.measure_plan import Unit, spaced, units
from stages.core.errors import UserError
from tests.pipelines.foundations.video.measured import COUNT, settings


@pytest.mark.parametrize(("total", "count"), [(20, 10), (20, 7), (5, 1), (4, 4), (3, 9)])
def test_steps_are_spread_evenly_over_the_walk(total: int, count: int) -> None:
    found = spaced(total, count)
    assert found == sorted(set(found)) and len(found) == min(total, count)
    assert abs(found[0] - (total - 1 - found[-1])) <= 1 and found[-1] < total


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"free": {"clips": 6, "cells": {"W4A6": {"a": 3}}}}, "3 seeds of a, but quantize makes 2"),
        ({"free": {"clips": 6, "cells": {"W4A6": {"c": 1}}}}, "free.cells.W4A6 names c"),
        ({"free": {"clips": 6, "cells": {"W2A2": {"a": 1}}}}, "free.cells names W2A2"),
        ({"shown": {"conditions": ["W2A2"], "clips": 1}}, "shown.conditions names W2A2"),
        ({"shown": {"conditions": [], "clips": 7}}, "shown.clips is 7, but free.clips 6"),
        ({"forced": {"clips": 7, "steps": 1}}, "forced.clips is 7, but free.clips 6"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(
    changes: dict[str, Any], word: str
) -> None:
    with pytest.raises(ValidationError, match=word):
        settings(**changes)


def test_a_cell_walks_as_far_as_it_is_shown_or_is_a_headline() -> None:
    own = settings(free={"clips": COUNT, "cells": {"W4A6": {"a": 1}}})

    def clips(variant: str, condition: str, seed: int) -> int:
        return own.clips_of(Unit(variant, condition, seed, Path()))

    assert clips("a", "W4A6", 0) == COUNT
    assert clips("a", "W4A6", 1) == 0 == clips("b", "W4A6", 0)
    assert clips("a", "W8A8", 0) == 2 == clips("b", "W8A8", 0)
    assert clips("b", "W8A8", 1) == 0


def lay(
    root: Path, variants: tuple[str, ...] = ("a", "b"), seeds: tuple[int, ...] = (0, 1)
) -> Path:
    for variant in variants:
        for condition in ("W4A6", "W8A8"):
            for seed in seeds:
                folder = root / variant / "0-1" / condition / f"seed{seed}"
                folder.mkdir(parents=True)
                (folder / "told.json").write_text("{}")
    return root


def test_every_model_that_params_name_is_found(tmp_path: Path) -> None:
    found = units(lay(tmp_path), settings(), "told.json")
    assert [unit.name for unit in found][:4] == [
        "a-W4A6-seed0", "a-W8A8-seed0", "a-W4A6-seed1", "a-W8A8-seed1",
    ]  # fmt: skip
    assert len(found) == 8 == len({unit.folder for unit in found})


def test_what_is_missing_or_one_too_many_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds c"):
        units(lay(tmp_path / "x", ("a", "b", "c")), settings(), "told.json")
    with pytest.raises(UserError, match=r"a/0-1/W4A6/seed1 has no told\.json"):
        units(lay(tmp_path / "y", seeds=(0,)), settings(), "told.json")
    with pytest.raises(UserError, match="holds W8A8"):
        units(
            lay(tmp_path / "z"),
            settings(conditions=["W4A6"], shown={"conditions": [], "clips": 1}),
            "told.json",
        )
