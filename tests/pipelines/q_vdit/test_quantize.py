"""The stage `quantize`, from the folders that calibrate and the foundation leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.foundations.video import teacher
from pipelines.q_vdit import quantize
from pipelines.q_vdit.student import MODEL, TRAINING, Ground, load
from pipelines.q_vdit.training import measures
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.job import Inputs
from tests.jobs import for_tests
from tests.pipelines.foundations.video.claimed import section
from tests.pipelines.q_vdit import small
from tests.pipelines.q_vdit.small import SMOOTH, TERM, TOKEN

TEACH, CALIBRATE = "work/foundations/video/teach/latte", "work/q_vdit/calibrate"
NODE = Node("q_vdit", "quantize", "arm", None, (TEACH, CALIBRATE), (), ())
VALUES: dict[str, Any] = {
    "cells": ["W3A6-mix", "W4A8-all"], "held": 2, "momentum": 0.95, "train": small.TRAIN,
    "rates": small.RATES, "batch": 4,
}  # fmt: skip
Q_VDIT = SMOOTH | TOKEN | {"temporal": TERM}
SEARCH = {"search": {"group": 8, "sizes": [8, 16], "population": 4, "generations": 1, "samples": 2}}
ARMS = {
    name: arm
    for profile in ("desk", "lab", "paper")
    for name, arm in section("q_vdit", profile)["quantize"]["variants"].items()
}
SHORT = small.TRAIN | {"steps": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.calibrated(tmp_path_factory.mktemp("project"), (0, 1))


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two channels."""
    return small.calibrated(tmp_path_factory.mktemp("coloured"), channels=2)


def stage(
    root: Path, folder: Path, arm: dict[str, Any], seeds: tuple[int, ...] = (0,), **changes: Any
) -> Path:
    """Run the stage, with a resume folder of its own."""
    params = quantize.Params.model_validate({**VALUES, **changes, "variant": arm})
    with for_tests(folder, NODE, seeds) as job:
        quantize.run(params, Inputs(root, NODE), folder / "out", job)
    return folder / "out"


def test_it_leaves_a_model_and_its_story_by_cell_and_seed(root: Path, tmp_path: Path) -> None:
    out = stage(root, tmp_path, Q_VDIT, (0, 1))
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*"))
    units = [f"{cell}/seed{seed}" for cell in VALUES["cells"] for seed in (0, 1)]
    assert files == sorted(
        f"{unit}/{name}" for unit in units for name in (MODEL, TRAINING, "curve.csv")
    )
    told = read_json(out / "W3A6-mix/seed0" / TRAINING)
    assert told["updates"] == 6 and told["tried"] == 0 and told["trainable"]["all"] > 0
    assert told["file_bytes"] == (out / "W3A6-mix/seed0" / MODEL).stat().st_size
    assert set(told["before"]) == set(told["after"]) == {"error", "temporal"}
    # 12 d² of attention at 3 bits and 16 d² of feed-forward at 8: Latte's temporal blocks have one.
    assert told["bits"]["weights"] == pytest.approx((12 * 3 + 16 * 8) / 28)
    assert told["bits"]["stored"]["per_weight"] > told["bits"]["weights"]
    ledger = told["bits"]["stored"]["ledger"]
    assert ledger["beside"] > 0 and ledger["transforms"] > 0
    curve = (out / "W3A6-mix/seed0/curve.csv").read_text().splitlines()
    assert curve[0] == "step,loss,block" and len(curve) == 7


def test_what_is_loaded_is_what_was_measured(root: Path, tmp_path: Path) -> None:
    out = stage(root, tmp_path, Q_VDIT, cells=["W3A6-mix"])
    folder = out / "W3A6-mix/seed0"
    taught = teacher.load(root / TEACH)
    ground = Ground.load(root / CALIBRATE, taught, 0)
    found = small.output(load(folder, taught), ground)
    error = float((found - ground.samples.target).square().mean())
    assert read_json(folder / TRAINING)["after"]["error"] == pytest.approx(error, rel=1e-5)


def test_two_runs_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    first, second = (
        stage(root, tmp_path / name, Q_VDIT, cells=["W3A6-mix"]) for name in ("a", "b")
    )
    files = sorted(p.relative_to(first) for p in first.rglob("*.*"))
    assert files
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_what_is_done_is_not_done_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(root, tmp_path, {}, cells=["W3A6-mix"])
    done: list[str] = []
    made = quantize.made
    monkeypatch.setattr(quantize, "made", lambda *args: (done.append(args[3].name), made(*args)))
    again = tmp_path / "out"
    again.rename(tmp_path / "before")
    stage(root, tmp_path, {})
    assert done == ["W4A8-all"]


@pytest.mark.parametrize("arm", [{}, SMOOTH | {"rotated": True}, SEARCH])
def test_an_arm_that_does_not_learn_has_no_curve(
    root: Path, tmp_path: Path, arm: dict[str, Any]
) -> None:
    out = stage(root, tmp_path, arm, cells=["W3A6-all"]) / "W3A6-all/seed0"
    told = read_json(out / TRAINING)
    assert not (out / "curve.csv").exists()
    assert told["updates"] == 0 and told["trainable"] == {"all": 0}
    assert (told["tried"] > 0) == ("search" in arm)
    if "search" in arm:
        assert told["after"]["error"] < told["before"]["error"]
    else:
        torch.testing.assert_close(told["after"]["error"], told["before"]["error"])


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_of_every_profile_can_be_made_and_loaded(
    name: str, root: Path, coloured: Path, tmp_path: Path
) -> None:
    """With ranks and groups that suit a network of this size."""
    arm: dict[str, Any] = dict(ARMS[name])
    if arm.get("search"):
        arm |= SEARCH
    arm |= {key: min(arm[key], 4) for key in ("inner", "rank") if arm.get(key)}
    scrambled = "scrambled" in name
    if scrambled:
        with pytest.raises(UserError, match="nothing is scrambled"):
            stage(root, tmp_path / "grey", arm, cells=["W3A6-mix"], train=SHORT)
    where = coloured if scrambled else root
    out = stage(where, tmp_path, arm, cells=["W3A6-mix"], train=SHORT) / "W3A6-mix/seed0"
    told, taught = read_json(out / TRAINING), teacher.load(where / TEACH)
    ground = Ground.load(where / CALIBRATE, taught, 0)
    # In batches as the stage has them: a last digit can move an activation's code.
    assert told["after"] == pytest.approx(measures(load(out, taught), ground, VALUES["batch"]))
    assert (told["trainable"]["all"] > 0) == (arm.get("scope", "none") != "none")


def test_scrambled_frames_teach_another_network(coloured: Path, tmp_path: Path) -> None:
    """Both terms start as large as they do because of what they compare, and lead elsewhere."""
    found = {}
    for frames in ("axis", "scrambled"):
        arm = TOKEN | {"temporal": TERM | {"frames": frames}}
        folder = stage(coloured, tmp_path / frames, arm, cells=["W3A6-mix"]) / "W3A6-mix/seed0"
        losses = (folder / "curve.csv").read_text().splitlines()[1:]
        found[frames] = [float(row.split(",")[1]) for row in losses]
        assert read_json(folder / TRAINING)["arm"]["temporal"]["frames"] == frames
    assert all(a != b for a, b in zip(found["axis"], found["scrambled"], strict=True))


def test_unknown_bits_are_refused_before_anything_runs(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cell"):
        stage(root, tmp_path, {}, cells=["W3A6"])
