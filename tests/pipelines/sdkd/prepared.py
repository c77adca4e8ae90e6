"""The stage `prepare` as tests run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.sdkd import prepare
from stages.core import params as core
from stages.core.dag import Node
from stages.core.job import Inputs
from tests.jobs import for_tests

NODE = Node("sdkd", "prepare", None, None, (), (), ())
RECIPE: dict[str, Any] = {
    "viscosity": 1e-3,
    "forcing": 0.1,
    "initial": {"alpha": 2.5, "tau": 7.0},
    "grid": 24,
    "size": 16,
    "scheme": "ab2",
    "step": 0.05,
    "interval": 0.5,
    "frames": 5,
    "precision": "float32",
}
VALUES: dict[str, Any] = {
    "published": None,
    "recipe": RECIPE,
    "trajectories": {"train": 5, "valid": 2, "test": 3},
    "seed": 0,
    "batch": 2,
    "workers": 1,
    "history": 3,
    "horizon": 2,
    "stride": 1,
}


def parameters(**changes: Any) -> prepare.Params:
    values = {"sdkd": {"prepare": core.merge(VALUES, changes)}}
    return core.build(prepare.Params, values, "sdkd", "prepare")


def make(project: Path, name: str = "prepare", **changes: Any) -> Path:
    """Run the stage; give its folder."""
    out = project / "work/sdkd" / name
    out.mkdir(parents=True)
    with for_tests(project, NODE) as job:
        prepare.run(parameters(**changes), Inputs(project, NODE), out, job)
    return out
