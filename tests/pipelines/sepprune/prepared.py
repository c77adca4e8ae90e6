"""The stage `prepare` as tests run it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from pipelines.sepprune import prepare
from stages.core.dag import Node
from stages.core.job import Inputs
from tests.jobs import for_tests

NODE = Node("sepprune", "prepare", None, None, (), (), ())
VALUES: dict[str, Any] = {
    "source": "packages",
    "root": None,
    "rate": 8000,
    "seconds": 1.0,
    "gain_db": 5.0,
    "level_db": -25.0,
    "seed": 0,
    "shares": {"train": 0.6, "valid": 0.2, "test": 0.2},
    "mixtures": {"valid": 6, "test": 9, "unseen": 5},
    "held_out": ["anna", "dora"],
    "skip": ["tt-noise"],
    "trim_db": 40.0,
    "active_db": 30.0,
    "active_share": 0.6,
}


def make(project: Path, name: str = "prepare", **change: Any) -> Path:
    out = project / "work/sepprune" / name
    out.mkdir(parents=True)
    with for_tests(project, NODE) as job:
        prepare.run(prepare.Params.model_validate(VALUES | change), Inputs(project, NODE), out, job)
    return out


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
