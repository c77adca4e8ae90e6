"""Pictures of measures: where points stand, and what is said of them."""

from pathlib import Path

import pandas
import pytest
import torch

from pipelines.foundations.video import measure_pictures as pictures
from stages.core.files import read_json
from stages.core.stats import Interval

QUALITY = {
    ("W4A6", "a"): (6.0, 5.0, Interval(20.0, 19.0, 21.0)),
    ("W4A6", "b"): (6.0, 5.0, Interval(22.0, 21.0, 23.0)),
    ("W4A4", "a"): (4.0, 5.0, Interval(15.0, 14.0, 16.0)),
    ("W3A6", "b"): (6.0, 4.0, Interval(12.0, 11.0, 13.0)),
}


def alt(out: Path, name: str) -> str:
    entry = next(e for e in read_json(out / "exhibits.json") if e["name"] == name)
    assert (out / entry["file"]).is_file()
    return str(entry["alt"])


def test_points_of_one_size_stand_side_by_side() -> None:
    found = pictures.beside(QUALITY)
    assert found["W4A4", "a"] == 5.0 and found["W3A6", "b"] == 4.0
    left, right = found["W4A6", "a"], found["W4A6", "b"]
    assert left < 5 < right and right - left == pytest.approx(0.02)


def test_the_best_at_each_bits_is_told(tmp_path: Path) -> None:
    pictures.save_bits(tmp_path, QUALITY, ["a", "b"], str.upper)
    told = alt(tmp_path, "quality-bits")
    assert "W4A6: best is B with 22.0 dB at 5.00 bits" in told
    assert "W4A4: best is A with 15.0 dB" in told


def test_the_nearest_and_the_farthest_clips_are_told(tmp_path: Path) -> None:
    full = torch.full((1, 2, 4, 4, 1), 100, dtype=torch.uint8)
    clips = {"a": full + 51, "b": full.clone()}
    pictures.save_strips(tmp_path, "W4A6", full, clips, ["a 3 moving up"], str.upper)
    told = alt(tmp_path, "strips-w4a6")
    assert "is B, 0.0 % of the range away" in told and "farthest is A, 20.0 %" in told


def test_curves_tell_their_ends_in_the_order_of_the_arms(tmp_path: Path) -> None:
    curve = pandas.DataFrame({"step": [1, 2], "b": [9.0, 5.0], "a": [8.0, 4.0]})
    pictures.save_sqnr(tmp_path, "W4A6", curve, ["a", "b", "c"], str.upper)
    assert alt(tmp_path, "sqnr-w4a6") == (
        "A: 8.0 dB at first, 4.0 dB at last. B: 9.0 dB at first, 5.0 dB at last."
    )
    drift = pandas.DataFrame({"step": [1, 2, 3], "a": [0.0, 0.01, 0.25]})
    pictures.save_drift(tmp_path, "W4A6", drift, ["a", "b"], str.upper)
    assert alt(tmp_path, "drift-w4a6") == "A ends 0.25 away."
