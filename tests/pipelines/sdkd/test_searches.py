"""The table of all tries."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from pipelines.sdkd import searches
from stages.core.pictures import read_exhibits

HEAD = "student,rate,lambda,alpha,valid_mse,steps,valid_mse_seed0,best_step_seed0,"
HEAD += "valid_mse_seed7,best_step_seed7\n"


def tried(student: str, rate: float, strength: float, alpha: float, *each: float) -> str:
    mean = sum(each) / len(each)
    ends = "".join(f",{value:g},3" for value in (each * 2)[:2])
    return f"{student},{rate:g},{strength:g},{alpha:g},{mean:g},3{ends}\n"


def shown(root: Path, arms: dict[str, str]) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The table's rows and its entry among the exhibits."""
    for arm, text in arms.items():
        (root / "tune" / arm).mkdir(parents=True)
        (root / "tune" / arm / "search.csv").write_text(HEAD + text)
    searches.show(root, root / "tune")
    (entry,) = read_exhibits(root)
    with (root / entry["file"]).open(newline="") as file:
        return list(csv.DictReader(file)), entry


def test_the_best_try_of_each_arm_stands_first(tmp_path: Path) -> None:
    rows, _ = shown(tmp_path, {
        "sdkd": tried("unet", 1, 0.1, 1, 0.4, 0.6) + tried("unet", 1, 1, 1, 0.3, 0.2)
        + tried("mixer", 1, 0.1, 1, 0.3, 0.3) + tried("mixer", 1, 1, 1, 0.2, 0.6),
        "none": tried("unet", 1, 0, 0, 0.6, 0.6) + tried("mixer", 1, 0, 0, 0.7, 0.7),
    })  # fmt: skip
    assert [(r["student"], r["arm"], r["lambda"], r["validation MSE"]) for r in rows] == [
        ("MLP-Mixer", "no distillation", "0", "0.7000"),
        ("MLP-Mixer", "SDKD", "0.1", "0.3000"),
        ("MLP-Mixer", "SDKD", "1", "0.4000"),
        ("U-Net", "no distillation", "0", "0.6000"),
        ("U-Net", "SDKD", "1", "0.2500"),
        ("U-Net", "SDKD", "0.1", "0.5000"),
    ]
    assert rows[2]["of each seed"] == "0.2000, 0.6000"


def test_an_end_of_a_list_is_told(tmp_path: Path) -> None:
    """The best inside its list, at an end of one of its two weights, of its only one, of rates."""
    inside = [(0.1, 1, 0.5), (1, 1, 0.2), (10, 1, 0.3), (1, 0.1, 0.4), (1, 10, 0.6)]
    rows, entry = shown(tmp_path, {
        "sdkd": "".join(tried("unet", 1, a, b, v) for a, b, v in inside),
        "random_teacher": "".join(tried("unet", 1, a, b, 1 - v) for a, b, v in inside),
        "output": "".join(tried("unet", 1, a, 1, v) for a, v in ((1, 0.5), (3, 0.4), (9, 0.3))),
        "none": "".join(tried("unet", r, 0, 0, r) for r in (2, 1, 0.5)),
    })  # fmt: skip
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row["arm"], row["at an end of its list"])
    assert first == {
        "SDKD": "",
        "SDKD, untrained teacher": "α 10, the greatest",
        "output distillation": "λ 9, the greatest",
        "no distillation": "rate 0.5, the least",
    }
    said = entry["caption"]
    assert "U-Net, output distillation (λ 9, the greatest)" in said
    assert "the best rate without distillation is U-Net 0.5" in said
    assert "U-Net, SDKD, untrained teacher (α 10, the greatest)" in said
    assert "U-Net, SDKD (" not in said


def test_that_none_is_at_an_end_is_told_too(tmp_path: Path) -> None:
    values = ((0.1, 0.5), (1, 0.2), (10, 0.3))
    arm = "".join(tried("unet", 1, a, 1, v) for a, v in values)
    _, entry = shown(tmp_path, {"fitnet": arm})
    assert "No best try is at an end of its list." in entry["caption"]
