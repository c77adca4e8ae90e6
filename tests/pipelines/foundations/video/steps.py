"""One step of every stage that a paper on video runs, in a project of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.core import dag
from stages.core.params import merge
from tests.pipelines.foundations.video import test_profiles as foundation

BENCH: dict[str, Any] = {
    "limits": {
        "arithmetic": [{"tokens": 8, "width": 32}],
        "reading": 64,
        "often": {"rounds": 1, "repeats": 1},
    },
    "models": {"clips": 1, "often": {"rounds": 1, "repeats": 1, "warmup": 0}},
    "blocks": {"part": 2, "often": {"rounds": 1, "repeats": 1, "warmup": 0}},
    "calibration": {"arms": []},
}
"""A moment of every measurement."""


def run(
    folder: Path,
    profile: str,
    paper: str,
    teacher: str,
    arms: Sequence[str],
    deployed: dict[str, list[str]],
    short: dict[str, Any],
) -> list[str]:
    """Run all stages but claims and page with a profile's parameters, cut short.

    Args:
        teacher: of the foundation's, the one that the paper reads.
        arms: that are made.
        deployed: those that bench deploys, with their kernels.
        short: what becomes of the paper's section.

    Returns:
        Names of the stages that ran.
    """
    foundation.project(folder, profile)
    values = yaml.safe_load((folder / "params.yaml").read_text())
    own = merge(merge(values[paper], {"bench": BENCH}), short)
    variants = own["quantize"]["variants"]
    own["quantize"]["variants"] = {name: variants[name] for name in arms}
    own["bench"]["models"]["arms"] = deployed
    values[paper] = own
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    nodes = dag.nodes(folder, foundation.PAPER, values) + dag.nodes(folder, paper, values)
    wanted = [
        node
        for node in nodes
        if node.stage not in dag.REPORTED
        and (node.paper == paper or node.variant in (None, teacher))
    ]
    env = {**os.environ, "RETORT_TRACKING": "off"}
    subprocess.run([sys.executable, "-m", "stages", "fingerprint"], cwd=folder, check=True)
    for node in wanted:
        words = [sys.executable, "-m", "stages", node.stage, node.paper]
        words += ["--variant", node.variant] if node.variant else []
        words += ["--seeds", node.seeds] if node.seeds else []
        done = subprocess.run(
            words, cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{node.name}: {done.stdout}\n{done.stderr}"
        assert (folder / node.folder / "provenance.json").is_file()
    return [node.name for node in wanted]
