"""What a kill of DVC itself leaves is mended; what is in use is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.core.heal import heal


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / "pipelines/demo").mkdir(parents=True)
    return tmp_path


def listing(pid: int) -> str:
    return json.dumps(
        {"write": {"/x/work/demo/teach": {"pid": pid, "cmd": "dvc repro"}}, "read": {}}
    )


def healed(root: Path) -> list[str]:
    said: list[str] = []
    heal(root, said.append)
    return said


@pytest.mark.parametrize(
    "text",
    ["", '{"write": {"/x', listing(os.getpid()), listing(2**22 + 1)],
    ids=["empty", "half", "another program's process", "no process"],
)
def test_a_lock_that_is_half_written_or_of_no_running_dvc_goes(root: Path, text: str) -> None:
    (root / ".dvc/tmp/rwlock").write_text(text)
    healed(root)
    assert not (root / ".dvc/tmp/rwlock").exists()


def test_the_lock_of_a_running_dvc_stays(root: Path) -> None:
    running = subprocess.Popen([sys.executable, "-c", "input()", "dvc"], stdin=subprocess.PIPE)
    try:
        (root / ".dvc/tmp/rwlock").write_text(listing(running.pid))
        healed(root)
        assert (root / ".dvc/tmp/rwlock").exists()
    finally:
        running.communicate(b"\n")


def test_a_half_written_lock_file_goes_and_a_whole_one_stays(root: Path) -> None:
    whole, half = root / "dvc.lock", root / "pipelines/demo/dvc.lock"
    whole.write_text("schema: '2.0'\nstages: {}\n")
    half.write_text("schema: '2.0'\nstages:\n  teach:\n    cmd: [")
    assert "pipelines/demo/dvc.lock was half-written" in healed(root)[0]
    assert whole.exists() and not half.exists()
    half.write_text("")
    assert len(healed(root)) == 1 and not half.exists()
