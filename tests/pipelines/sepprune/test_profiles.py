"""Every profile's parameters do run: one step of every stage with `lab` and with `paper`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.core import dag
from stages.core.files import read_json
from stages.core.params import merge
from stages.core.profiles import overlaid
from tests.stages.prepare.trees import published_tree, voice_project

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
ONCE = {"steps": 1, "epochs": None, "validate_every": 1}
SHORT: dict[str, Any] = {
    "prepare": {"mixtures": {"valid": 1, "test": 2, "unseen": 2}},
    "calibrate": {"batches": 1, "batch_size": 1},
    "prune": {
        "seeds": ["0-1"],
        "search": {"steps": 1, "batch": 1},
        "taylor_batches": 1,
        "finetune": {
            "train": {**ONCE, "steps": 2, "batch": 1},
            "at": [0, 1],
            "totals": [2],
            "epoch_updates": 1,
            "scratch_epochs": [1],
        },
        "variants!": {
            "sepprune": {"select": "concrete", "backbones": ["sudormrf", "afrcnn", "tdanet"]},
            "scratch": {"select": "scratch", "backbones": ["sudormrf"]},
        },
    },
    "evaluate": {"batch_size": 1},
    "bench": {
        "variants": ["sepprune"],
        "seeds": [0],
        "threads": [1],
        "rounds": 1,
        "repeats": 1,
        "warmup": 1,
        "seconds": 0.25,
        "train_step": {"batch": 1, "warmup": 1, "repeats": 1},
    },
}
"""One step of everything, on a moment of sound."""
REPEATED = ("blocks", "iterations")
"""What the networks repeat is done twice only; their widths stay as the profile has them."""


def project(folder: Path, profile: str) -> Path:
    """A project on made-up sound with the profile's parameters, cut to one step each."""
    values, _ = overlaid(ROOT, profile)
    paper = merge(values["sepprune"], SHORT)
    for spec in paper["teach"]["train"].values():
        spec |= {**ONCE, "batch": 1}
    for config in paper["teach"]["backbones"].values():
        config |= {key: 2 for key in REPEATED if key in config}
    paper["evaluate"]["examples"]["items"] = {"test" if profile == "paper" else "seen": [0]}
    paper["prepare"] |= {"seconds": 0.25}
    if profile == "paper":
        published_tree(folder / paper["prepare"]["root"], "lrs2mix", rate=16000)
    else:
        voice_project(folder)
        paper["prepare"] |= {"held_out": ["dora", "emil"], "skip": ["tt-noise"]}
    for part in ("pipelines", "stages"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    if profile == "paper":
        shutil.copy(ROOT / "data.lock", folder)
    else:  # its packages have other names
        dvc = folder / "pipelines/sepprune/dvc.yaml"
        dvc.write_text(re.sub(r"packages\.[\w-]+", "packages", dvc.read_text()))
    (folder / "params.yaml").write_text(yaml.safe_dump({**values, "sepprune": paper}))
    return folder


@pytest.mark.parametrize("profile", ["lab", "paper"])
def test_one_step_of_every_stage(tmp_path: Path, profile: str) -> None:
    folder = project(tmp_path / "p", profile)
    env = {**os.environ, "RETORT_TRACKING": "off"}
    values = yaml.safe_load((folder / "params.yaml").read_text())
    # Cut to two arms, `lab` has not what its claims compare; `paper` judges what there is.
    nodes = [
        node
        for node in dag.nodes(folder, "sepprune", values)
        if profile == "paper" or node.stage not in dag.REPORTED
    ]
    subprocess.run([sys.executable, "-m", "stages", "fingerprint"], cwd=folder, check=True)
    for node in nodes:
        words = [sys.executable, "-m", "stages", node.stage, node.paper]
        words += ["--variant", node.variant] if node.variant else []
        words += ["--seeds", node.seeds] if node.seeds else []
        done = subprocess.run(
            words, cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{node.name}: {done.stdout}\n{done.stderr}"
        assert all((folder / out).exists() for out in node.outs)
    if profile == "paper":
        verdicts = read_json(folder / "reports/papers/sepprune.json")["claims"]
        scored = [c for claim in verdicts for c in claim["cells"] if c["seeds"]]
        assert scored and {c.get("dataset", "LRS2-2Mix") for c in scored} == {"LRS2-2Mix"}
