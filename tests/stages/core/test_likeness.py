"""When tables of two machines are taken for the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save

from stages.core.likeness import TOLERANCE, alike

JUST = 1 + 0.9 * TOLERANCE
BEYOND = 1 + 1.2 * TOLERANCE


def of_json(folder: Path, one: Any, other: Any) -> bool | None:
    for name, value in (("a", one), ("b", other)):
        (folder / name).write_text(json.dumps(value))
    return alike(folder / "a", folder / "b", "x/told.json")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"x": 2.0}, {"x": 2.0 * JUST}, True),
        ({"x": 2.0}, {"x": 2.0 * BEYOND}, False),
        ({"x": [0.0, 1.0]}, {"x": [1e-9, 1.0]}, False),
        ({"x": "a"}, {"x": "b"}, False),
        ({"x": 1}, {"y": 1}, False),
        ({"x": [1, 2]}, {"x": [1, 2, 3]}, False),
        ({"x": []}, {"x": {}}, True),
        ({"x": True}, {"x": 1}, True),
        ({"x": True}, {"x": 1.001}, False),
        ({"x": None}, {"x": None}, True),
        ({"x": None}, {"x": 0.0}, False),
        ({"x": math.nan}, {"x": math.nan}, True),
        ({"x": math.inf}, {"x": -math.inf}, False),
    ],
)
def test_json(tmp_path: Path, one: Any, other: Any, same: bool) -> None:
    assert of_json(tmp_path, one, other) is same


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_are_compared_on_their_own_scale(tmp_path: Path, suffix: str) -> None:
    def told(**other: list[Any]) -> bool | None:
        base = {"name": ["a", "b"], "value": [100.0, 0.001], "small": [1e-3, math.nan]}
        for file, values in (("one", base), ("other", {**base, **other})):
            frame = pd.DataFrame(values)
            if suffix == ".csv":
                frame.to_csv(tmp_path / file, index=False)
            else:
                frame.to_parquet(tmp_path / file)
        return alike(tmp_path / "one", tmp_path / "other", f"x{suffix}")

    assert told()
    assert told(cut=[True, False]) is False and alike_bools(tmp_path)
    assert told(value=[100.0, 0.9])  # within a share of the column's largest
    assert not told(value=[100.0, 1.2])
    assert not told(small=[1.2e-3, math.nan])
    assert not told(small=[1e-3, 1e-3])
    assert not told(name=["a", "c"])
    assert not told(more=[1, 2])


def alike_bools(folder: Path) -> bool | None:
    """A column of truths, beside numbers that differ a little."""
    for name, value in (("a", 1.0), ("b", 1.001)):
        pd.DataFrame({"censored": [True, False], "value": value}).to_parquet(folder / name)
    return alike(folder / "a", folder / "b", "x.parquet")


def test_each_metric_has_its_own_scale(tmp_path: Path) -> None:
    """Counts of parameters must not hide what happened to an error."""

    def told(error: float) -> bool | None:
        for name, value in (("a", 0.5), ("b", error)):
            rows = {"metric": ["parameters", "error"], "value": [283_104.0, value]}
            pd.DataFrame(rows).to_parquet(tmp_path / name)
        return alike(tmp_path / "a", tmp_path / "b", "scores.parquet")

    assert told(0.502) and not told(0.52)


def test_networks_are_compared_tensor_by_tensor(tmp_path: Path) -> None:
    def told(**other: np.ndarray) -> bool | None:
        base = {"w": np.array([1.0, -100.0]), "codes": np.array([3, 4], np.int8)}
        for name, tensors in (("a", base), ("b", {**base, **other})):
            (tmp_path / name).write_bytes(save(tensors))
        return alike(tmp_path / "a", tmp_path / "b", "model.safetensors")

    assert told() and told(w=np.array([1.9, -100.0]))
    assert not told(w=np.array([1.0, -102.0])) and not told(w=np.array([1.0, np.nan]))
    assert not told(codes=np.array([3, 5], np.int8))
    assert not told(w=np.array([1.0])) and not told(more=np.zeros(1))


def test_a_provenance_may_be_of_another_environment(tmp_path: Path) -> None:
    for name, environment, code in (("a", "1", "x"), ("b", "2", "x"), ("c", "2", "y")):
        (tmp_path / name).write_text(json.dumps({"environment": environment, "code": code}))
    assert alike(tmp_path / "a", tmp_path / "b", "work/p/teach/provenance.json")
    assert not alike(tmp_path / "a", tmp_path / "c", "work/p/teach/provenance.json")
    assert not alike(tmp_path / "a", tmp_path / "b", "work/p/teach/other.json")


def test_other_kinds_of_files_hold_no_table(tmp_path: Path) -> None:
    assert alike(tmp_path / "a", tmp_path / "b", "a.png") is None
