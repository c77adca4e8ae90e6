"""Slips in params.yaml are told before anything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.core import checks, dag
from stages.core.errors import UserError
from stages.core.params import read_yaml
from stages.core.profiles import overlaid
from tests import project


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project.make(tmp_path_factory.mktemp("checks") / "p")


@pytest.fixture
def values(folder: Path) -> dict[str, Any]:
    return read_yaml(folder / "params.yaml")


def test_the_committed_parameters_pass() -> None:
    checks.refuse_unread_keys(project.ROOT, read_yaml(project.ROOT / "params.yaml"))


@pytest.mark.parametrize(
    ("path", "beside"),
    [
        ("common.thread", "device, profile, threads"),
        ("dem", "common, demo"),
        ("demo.prun", "prepare, prune, teach"),
        ("demo.prune.sedes", "seeds, share, variants"),
    ],
)
def test_a_key_that_no_stage_reads_is_refused(
    folder: Path, values: dict[str, Any], path: str, beside: str
) -> None:
    checks.refuse_unread_keys(folder, values)
    *parents, last = path.split(".")
    here = values
    for name in parents:
        here = here[name]
    here[last] = 1
    with pytest.raises(UserError, match=f"no stage reads '{path}'; allowed: {beside}"):
        checks.refuse_unread_keys(folder, values)


@pytest.mark.parametrize("profile", ["desk", "smoke", "lab", "paper"])
def test_what_stages_read_is_made(profile: str) -> None:
    checks.refuse_missing_makers(project.ROOT, overlaid(project.ROOT, profile)[0])


def test_an_arm_that_was_not_tuned_is_told() -> None:
    values = read_yaml(project.ROOT / "params.yaml")
    values["sdkd"]["distill"]["variants"]["sdkd_new"] = {"loss": "sdkd"}
    told = r"sdkd distill@sdkd_new-\S+ reads \S+, and no stage makes 'sdkd_new' in work/sdkd/tune; "
    with pytest.raises(UserError, match=told + r"made there: .*fitnet"):
        checks.refuse_missing_makers(project.ROOT, values)


def test_a_new_variant_is_read(folder: Path, values: dict[str, Any]) -> None:
    values["demo"]["prune"]["variants"]["third"] = {"by": "size"}
    checks.refuse_unread_keys(folder, values)


def test_wrong_values_of_several_stages_are_told_together() -> None:
    values = read_yaml(project.ROOT / "params.yaml")
    plan = dag.nodes(project.ROOT, "sdkd", values)
    checks.refuse_wrong_values(values, plan)
    values["sdkd"]["evaluate"]["batch_size"] = 0
    values["sdkd"]["prepare"]["trajectories"]["train"] = "many"
    with pytest.raises(UserError) as found:
        checks.refuse_wrong_values(values, plan)
    message = str(found.value)
    assert "sdkd.evaluate.batch_size" in message and "sdkd.prepare.trajectories.train" in message
    assert len(message.splitlines()) == 2


@pytest.mark.slow
def test_make_repro_refuses_before_anything_runs(folder: Path, tmp_path: Path) -> None:
    project.change(folder, "demo.evaluate", {"size": 3})
    done = subprocess.run(
        [sys.executable, "-m", "stages", "repro"], cwd=folder, env=project.ENV,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "no stage reads 'demo.evaluate'" in done.stderr
    assert not (folder / "work/demo").exists()
