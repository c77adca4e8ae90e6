"""Every profile's parameters do run: a step of every stage with `lab`, and with `paper`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages.core import dag
from stages.core.files import read_json
from stages.core.params import merge
from stages.core.profiles import overlaid
from tests.pipelines.foundations.video import pipes, sources

ROOT = Path(__file__).resolve().parents[4]
PAPER = "foundations/video"
ONCE = {"steps": 1, "epochs": None, "batch": 2, "validate_every": 1, "warmup": 0}
SHORT: dict[str, Any] = {
    "prepare": {"clips": {"train": 8, "valid": 4, "test": 4}},
    "judge": {"classifier": {"train": ONCE}, "features": {"train": ONCE}},
    "teach": {"valid_clips": 2, "valid_rounds": 1},
    "gate": {"clips": 4, "shown": 2, "required": False},
}
"""One step of everything, on a few clips."""


def section(profile: str) -> tuple[dict[str, Any], dict[str, Any]]:
    values, _ = overlaid(ROOT, profile)
    return values, values["foundations"]["video"]


def project(folder: Path, profile: str) -> Path:
    """A project with the profile's networks, cut to one step each."""
    values, own = section(profile)
    own = merge(own, SHORT)
    for variant in own["teach"]["variants"].values():
        if variant["train"] is not None:
            variant["train"] |= ONCE
    for variant in own["gate"]["variants"].values():
        variant["steps"] = 2
    for part in ("pipelines", "stages"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    sources.lay(folder)
    packages = yaml.safe_load((folder / "data.lock").read_text())["packages"]
    packages["scikit-video"] = packages["mlxtend"]
    (folder / "data.lock").write_text(yaml.safe_dump({"packages": packages}))
    if profile == "paper":
        films(folder / own["prepare"]["folder"]["root"], own["prepare"]["frames"])
        stand_in(folder, own)
    values["foundations"]["video"] = own
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder


def films(folder: Path, frames: int) -> None:
    """A few tiny videos with captions."""
    import av

    folder.mkdir(parents=True)
    for number in range(40):  # four of them for validation
        (folder / f"{number}.txt").write_text(f"a bar {'left' if number % 2 else 'right'}\n")
        with av.open(str(folder / f"{number}.mp4"), "w") as film:
            stream = film.add_stream("mpeg4", rate=25)
            stream.width = stream.height = 64
            for place in range(4 * frames + 4):
                image = np.zeros((64, 64, 3), dtype=np.uint8)
                image[:, (number + place) % 64] = 255
                film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            film.mux(stream.encode())


def stand_in(folder: Path, own: dict[str, Any]) -> None:
    """Tiny pipelines in place of the published ones."""
    for name, variant in own["teach"]["variants"].items():
        kind = {"cogvideox_5b": "cogvideox-rotary"}.get(name, name)
        pipes.saved(folder / "models", kind)
        side, frames = (8, 3) if kind == "latte" else (16, 9)
        variant["net"] |= {"source": f"models/{kind}", "dtype": "float32"}
        variant["net"] |= {"frames": frames, "height": side, "width": side}


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["lab", "paper"])
def test_one_step_of_every_stage(tmp_path: Path, profile: str) -> None:
    if profile == "paper":
        for package in ("transformers", "av"):
            pytest.importorskip(package, reason="profile paper needs it")
    folder = project(tmp_path, profile)
    env = {**os.environ, "RETORT_TRACKING": "off"}
    values = yaml.safe_load((folder / "params.yaml").read_text())
    subprocess.run([sys.executable, "-m", "stages", "fingerprint"], cwd=folder, check=True)
    for node in dag.nodes(folder, PAPER, values):
        words = [sys.executable, "-m", "stages", node.stage, node.paper]
        words += ["--variant", node.variant] if node.variant else []
        done = subprocess.run(
            words, cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{node.name}: {done.stdout}\n{done.stderr}"
        if node.stage == "gate":
            assert set(read_json(folder / node.folder / "gate.json")["passed"]) == {
                "accuracy", "frechet",
            }  # fmt: skip


@pytest.mark.parametrize("profile", ["desk", "smoke", "lab", "paper"])
def test_the_settings_fit_each_other(profile: str) -> None:
    """What no stage sees alone: names and counts in two sections, and patches of frames."""
    _, own = section(profile)
    prepare, teach, gate = own["prepare"], own["teach"], own["gate"]
    assert set(teach["variants"]) == set(gate["variants"])
    assert gate["clips"] <= min(prepare["clips"]["valid"], prepare["clips"]["test"])
    assert teach["valid_clips"] <= prepare["clips"]["valid"]
    for name, variant in teach["variants"].items():
        steps = gate["variants"][name]["steps"]
        assert teach["schedule"]["steps"] % steps == 0
        if variant["train"] is not None:
            assert prepare["height"] == prepare["width"]
            assert prepare["height"] % variant["net"]["patch"] == 0


def test_the_gate_is_asked_for_at_desk_and_as_the_issue_has_it() -> None:
    for profile in ("desk", "lab"):
        _, own = section(profile)
        gate = own["gate"]
        assert gate["required"] and gate["accuracy"] >= 0.8 and gate["frechet"] <= 3.0
        assert gate["clips"] >= 512
