"""Every profile's parameters do run: one step of every stage with `lab` and with `paper`."""

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

from pipelines.sdkd.model import coarsening
from pipelines.sdkd.tune import Params
from stages.core import dag
from stages.core.params import build, merge
from stages.core.profiles import overlaid

ROOT = Path(__file__).resolve().parents[3]
ONCE = {"steps": 1, "epochs": None, "batch": 2, "validate_every": 1, "warmup": 0}
ARMS = ("none", "agree_three", "sdkd_output")
SHORT: dict[str, Any] = {
    "prepare": {"trajectories": {"train": 2, "valid": 1, "test": 2}},
    "calibrate": {"batch": 2},
    "tune": {"seeds": [0], "steps": 1, "grid": {"rates": [1.0], "one": [1.0], "two": [[1.0, 1.0]]}},
    "gate": {"less": None},  # after one step no teacher is any good
    "distill": {"seeds": ["0-1"]},
    "bench": {
        "variants": ["sdkd_output"], "seeds": [0], "threads": [1], "rounds": 1, "repeats": 1,
        "warmup": 1, "train_step": {"arms": ["none"], "batch": 1, "warmup": 1, "repeats": 1},
    },
}  # fmt: skip
"""One step of everything, on a few trajectories."""


def project(folder: Path, profile: str) -> Path:
    """A project with the profile's networks, cut to one step each."""
    values, _ = overlaid(ROOT, profile)
    paper = merge(values["sdkd"], SHORT)
    for section in ("teach", "distill"):
        for spec in paper[section]["train"].values():
            spec |= ONCE
    for config in paper["teach"]["teachers"].values():
        config["layers_t"] = 2  # blocks of one width, repeated
    for section in ("tune", "distill"):
        paper[section]["variants"] = {arm: paper[section]["variants"][arm] for arm in ARMS}
    if profile == "paper":
        from scipy.io import savemat

        path = folder / paper["prepare"]["published"]["root"]
        path.parent.mkdir(parents=True)
        u = np.random.default_rng(0).standard_normal((5, 64, 64, 20)).cumsum(-1)
        savemat(path, {"u": u.astype("float32")})
    for part in ("pipelines", "stages"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "data.lock", folder)
    (folder / "params.yaml").write_text(yaml.safe_dump({**values, "sdkd": paper}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["lab", "paper"])
def test_one_step_of_every_stage(tmp_path: Path, profile: str) -> None:
    folder = project(tmp_path, profile)
    env = {**os.environ, "RETORT_TRACKING": "off"}
    values = yaml.safe_load((folder / "params.yaml").read_text())
    nodes = [n for n in dag.nodes(folder, "sdkd", values) if n.stage not in ("claims", "page")]
    subprocess.run([sys.executable, "-m", "stages", "fingerprint"], cwd=folder, check=True)
    for node in nodes:
        words = [sys.executable, "-m", "stages", node.stage, node.paper]
        words += ["--variant", node.variant] if node.variant else []
        words += ["--seeds", node.seeds] if node.seeds else []
        done = subprocess.run(
            words, cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{node.name}: {done.stdout}\n{done.stderr}"
        assert (folder / node.folder / "provenance.json").is_file()


@pytest.mark.parametrize("profile", ["desk", "smoke", "lab", "paper"])
def test_the_settings_fit_each_other(profile: str) -> None:
    """What no stage sees alone: names in two sections, the published share of the latent width."""
    values, _ = overlaid(ROOT, profile)
    paper = values["sdkd"]
    teachers, arms = paper["teach"]["teachers"], paper["tune"]["variants"]
    assert set(teachers) == set(paper["teach"]["train"])
    taught = paper["calibrate"]["teacher"]
    assert taught in teachers
    assert set(paper["distill"]["variants"]) == set(arms)
    for arm in arms.values():
        assert {name.removesuffix("-random") for name in arm["teachers"]} <= set(teachers)
    assert {s for v in paper["distill"]["variants"].values() for s in v["students"]} == set(
        paper["tune"]["students"]
    )
    assert set(paper["distill"]["train"]) == set(paper["tune"]["students"])
    wide = teachers[taught]["hidden_t"]
    params = build(Params, values, "sdkd", "tune", "none")
    size = 64 if profile == "paper" else paper["prepare"]["recipe"]["size"]
    for numbers in params.students.values():
        assert 0.2 <= numbers.latent / wide <= 0.3
        assert size % coarsening(numbers) == 0
    measured = {*paper["bench"]["variants"], *paper["bench"]["train_step"]["arms"]}
    assert measured <= set(arms)
    seeds = {s for text in paper["distill"]["seeds"] for s in dag.seed_range(text)}
    assert set(paper["bench"]["seeds"]) <= seeds


def test_desk_runs_the_core_arms_and_lab_all() -> None:
    core = {"none", "output", "fitnet", "sdkd", "sdkd_low", "sdkd_high", "random_teacher"}
    more = {"sdkd_output", "sdkd_branches", "activation_boundary", "average", "agree"}
    for profile, wanted in (("desk", core), ("lab", core | more)):
        values, _ = overlaid(ROOT, profile)
        assert wanted <= set(values["sdkd"]["distill"]["variants"])
