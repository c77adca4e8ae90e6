"""The stage `prepare` as tests run it, on tiny series in a published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.merlin import prepare
from stages.core.dag import Node
from stages.core.job import Inputs
from tests.jobs import for_tests

NODE = Node("merlin", "prepare", None, None, (), (), ())
LENGTH, SENSORS = 400, 5
MASKS: dict[str, Any] = {
    "seed": 0,
    "nested": [0.25, 0.5, 0.75, 0.9],
    "unseen": [0.6],
    "changing": {"low": 0.1, "high": 0.9, "steps": 3},
    "blocks": {"rates": [0.5], "shortest": 4, "longest": 9},
}
SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}


def dataset(source: str = "metr_la", **change: Any) -> dict[str, Any]:
    own = {"source": source, "root": source, "shares": SHARES, "train_steps": None, "until": None}
    return {**own, "statistics": "sensor", **change}


def values(**change: Any) -> dict[str, Any]:
    own = {"history": 6, "horizon": 4, "scale": "zscore", "masks": MASKS}
    return {**own, "datasets": {"roads": dataset()}, **change}


def roads() -> NDArray[np.float64]:
    """Daily waves around 50 with a few true gaps, written as zeros as METR-LA does."""
    rng = np.random.default_rng(1)
    steps = np.arange(LENGTH)[:, None]
    data = (
        50
        + 9 * np.sin(2 * np.pi * steps / 288 + np.arange(SENSORS))
        + rng.normal(size=(LENGTH, SENSORS))
    )
    data[rng.random(data.shape) < 0.05] = 0.0
    data[100:104] = 0.0
    return data


def lay(project: Path, data: NDArray[np.float64], source: str = "metr_la") -> Path:
    """Put an array where the layout `source` looks for it."""
    names = {"metr_la": "METR-LA", "pems04": "PEMS04", "china_aqi": "China-AQI"}
    folder = project / source
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{names[source]}.npy", data)
    return folder


def make(project: Path, name: str = "prepare", **change: Any) -> Path:
    """Run the stage on what `lay` put there; give its output."""
    out = project / "work/merlin" / name
    out.mkdir(parents=True)
    with for_tests(project, NODE) as job:
        params = prepare.Params.model_validate(values(**change))
        prepare.run(params, Inputs(project, NODE), out, job)
    return out
