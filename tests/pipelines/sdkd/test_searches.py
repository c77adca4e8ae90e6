"""The table of all tries."""

from __future__ import annotations

import csv
from pathlib import Path

from pipelines.sdkd import searches
from stages.core.pictures import read_exhibits

HEAD = "student,rate,lambda,alpha,valid_mse,best_step,steps\n"


def test_the_best_try_of_each_arm_stands_first(tmp_path: Path) -> None:
    for arm, text in {
        "sdkd": "unet,1,0.1,1,0.5,3,3\nunet,1,1,1,0.25,3,3\n"
        "mixer,1,0.1,1,0.3,3,3\nmixer,1,1,1,0.4,3,3\n",
        "none": "unet,1,0,0,0.6,3,3\nmixer,1,0,0,0.7,3,3\n",
    }.items():
        (tmp_path / "tune" / arm).mkdir(parents=True)
        (tmp_path / "tune" / arm / "search.csv").write_text(HEAD + text)
    searches.show(tmp_path, tmp_path / "tune")
    (entry,) = read_exhibits(tmp_path)
    with (tmp_path / entry["file"]).open(newline="") as file:
        rows = [
            (r["student"], r["arm"], r["lambda"], r["validation MSE"]) for r in csv.DictReader(file)
        ]
    assert rows == [
        ("MLP-Mixer", "no distillation", "0", "0.7000"),
        ("MLP-Mixer", "SDKD", "0.1", "0.3000"),
        ("MLP-Mixer", "SDKD", "1", "0.4000"),
        ("U-Net", "no distillation", "0", "0.6000"),
        ("U-Net", "SDKD", "1", "0.2500"),
        ("U-Net", "SDKD", "0.1", "0.5000"),
    ]
