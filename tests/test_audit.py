"""`python -m stages audit`: stages that are not deterministic, results that nothing backs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = project.make(tmp_path_factory.mktemp("audit") / "p")
    project.repro(made)
    return made


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    return shutil.copytree(done, tmp_path / "p", symlinks=True)


def audit(folder: Path) -> tuple[int, list[str]]:
    told = subprocess.run(
        [sys.executable, "-m", "stages", "audit"],
        cwd=folder, env=project.ENV, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not told.stderr
    return told.returncode, told.stdout.splitlines()


def runs(folder: Path) -> Path:
    return folder / ".dvc/cache/runs"


def test_a_steady_tree_is_backed_whole(folder: Path) -> None:
    code, lines = audit(folder)
    assert code == 0
    assert lines == ["5 runs under 5 keys, 0 keys with different outputs; 5 of 5 entries of "
                     "dvc.lock backed"]  # fmt: skip


def test_a_stage_that_gives_other_bytes_is_named(folder: Path) -> None:
    """A second run of the same inputs, as a stage that draws from the clock would leave it."""
    value = next(f for f in runs(folder).rglob("*") if f.is_file() and "teach" in f.read_text())
    run = yaml.safe_load(value.read_text())
    run["outs"][0]["md5"] = "0" * 32 + ".dir"
    (value.parent / ("f" * 64)).write_text(yaml.safe_dump(run))
    code, lines = audit(folder)
    assert code == 1
    assert lines[0] == (
        "not deterministic: python -m stages teach demo: 2 runs of the same inputs differ in "
        "work/demo/teach"
    )


def test_a_receipt_backs_what_the_run_cache_lost(folder: Path) -> None:
    shutil.rmtree(runs(folder))
    code, lines = audit(folder)
    assert code == 0 and lines[-1].endswith("5 of 5 entries of dvc.lock backed")


def test_an_entry_that_neither_backs_is_listed(folder: Path) -> None:
    shutil.rmtree(runs(folder))
    (folder / "receipts/demo/teach.json").unlink()
    code, lines = audit(folder)
    assert code == 1
    assert lines[0] == "not backed: demo:teach: not in the run cache, and without a receipt"
    assert lines[-1].endswith("4 of 5 entries of dvc.lock backed")


def test_an_entry_written_by_hand_is_not_backed(folder: Path) -> None:
    """Other hashes in dvc.lock than any run gave."""
    lock = folder / "pipelines/demo/dvc.lock"
    entries = yaml.safe_load(lock.read_text())
    entries["stages"]["teach"]["outs"][0]["md5"] = "1" * 32 + ".dir"
    lock.write_text(yaml.safe_dump(entries))
    code, lines = audit(folder)
    assert code == 1
    told = "not backed: demo:teach: the run cache has other outputs of the same inputs"
    assert lines[0] == told


def test_a_receipt_of_other_parameters_backs_nothing(folder: Path) -> None:
    shutil.rmtree(runs(folder))
    project.change(folder, "demo.teach.steps", 7)
    told = "not backed: demo:teach: not in the run cache, and its receipt is of other params"
    assert told in audit(folder)[1]
