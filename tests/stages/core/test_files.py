"""Outputs are whole or absent; result files are checked and have deterministic bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pytest

from stages.core import digests, results
from stages.core.files import move_into_place, replacing, write_json
from stages.core.results import SchemaError, read_scores, write_curve, write_metrics, write_scores
from stages.core.seeding import seed_all, seed_of


def rows() -> list[dict]:
    base = {
        "paper": "demo", "backbone": "net", "dataset": "d", "condition": "", "metric": "m",
        "unit": "dB", "direction": "higher", "censored": False,
    }  # fmt: skip
    return [
        {**base, "variant": v, "seed": s, "item": f"i{i}", "value": s + i / 3}
        for v in ("a", "b")
        for s in range(2)
        for i in range(3)
    ]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_replaces_a_full_one(tmp_path: Path) -> None:
    for name, text in (("old", "1"), ("new", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(text)
    (tmp_path / ".old.old").mkdir()
    move_into_place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old/f").read_text() == "2"
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_scores_have_the_same_bytes_in_any_row_order(tmp_path: Path) -> None:
    table = rows()
    write_scores(tmp_path / "a.parquet", table)
    random.Random(0).shuffle(table)
    write_scores(tmp_path / "b.parquet", pd.DataFrame(table))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert len(read_scores(tmp_path / "a.parquet")) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": float("nan")}, "not finite"),
        ({"direction": "up"}, "direction"),
        ({"unit": None}, "empty cells"),
        ({"extra": 1}, "unknown"),
        ({"item": "i1"}, "twice"),
    ],
)
def test_scores_that_break_the_schema_are_refused(
    tmp_path: Path, change: dict, message: str
) -> None:
    table = rows()
    table[0] |= change
    with pytest.raises(SchemaError, match=message):
        write_scores(tmp_path / "a.parquet", table)
    assert not list(tmp_path.iterdir())


def test_metrics_and_curves_must_be_finite_numbers(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"a\.b is nan"):
        write_metrics(tmp_path / "m.json", {"a": {"b": float("nan")}})
    with pytest.raises(SchemaError, match="not finite"):
        write_curve(tmp_path / "c.csv", pd.DataFrame({"x": [1.0, float("inf")]}))
    write_curve(tmp_path / "c.csv", pd.DataFrame({"x": [1], "y": [1 / 3]}))
    assert (tmp_path / "c.csv").read_text() == "x,y\n1,0.33333333\n"


def test_digests_see_content_and_names_only(tmp_path: Path) -> None:
    for side in ("a", "b"):
        (tmp_path / side / "d").mkdir(parents=True)
        (tmp_path / side / "d/x.py").write_text("1")
    (tmp_path / "b/d/__pycache__").mkdir()
    (tmp_path / "b/d/__pycache__/x.pyc").write_text("2")
    one = digests.of_paths(tmp_path / "a", ["d"])
    assert one == digests.of_paths(tmp_path / "b", ["d"])
    (tmp_path / "b/d/x.py").rename(tmp_path / "b/d/y.py")
    assert one != digests.of_paths(tmp_path / "b", ["d"])
    assert digests.of_value({"a": 1, "b": 2}) == digests.of_value({"b": 2, "a": 1})


def test_seeds_depend_on_their_parts_alone() -> None:
    import torch

    assert seed_of("a", 1) == seed_of("a", 1) != seed_of("a", "1")
    seed_all("x", 3)
    first = torch.rand(3)
    seed_all("x", 3)
    assert torch.equal(first, torch.rand(3))


def test_every_column_has_a_type() -> None:
    assert set(results.KEY) < set(results.COLUMNS)
