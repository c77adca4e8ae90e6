"""What a kill of DVC itself leaves is mended; what is in use is left alone."""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.schema import COMPILED_LOCKFILE_SCHEMA as LOCKFILE_SCHEMA
from dvc.utils import strictyaml

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


def test_a_half_written_compiled_module_goes(root: Path) -> None:
    (root / "stages").mkdir()
    source = root / "stages/one.py"
    source.write_text("VALUE = 1\n")
    whole = Path(py_compile.compile(str(source)))
    half = whole.with_name("two.pyc")
    half.write_bytes(whole.read_bytes()[:-7])
    healed(root)
    assert whole.exists() and not half.exists()


def test_a_half_written_lock_file_goes_and_a_whole_one_stays(root: Path) -> None:
    whole, half = root / "dvc.lock", root / "pipelines/demo/dvc.lock"
    whole.write_text("schema: '2.0'\nstages: {}\n")
    half.write_text("schema: '2.0'\nstages:\n  teach:\n    cmd: [")
    assert "pipelines/demo/dvc.lock was half-written" in healed(root)[0]
    assert whole.exists() and not half.exists()


LOCK = """schema: '2.0'
stages:
  prepare:
    cmd: python -m stages prepare demo
    deps:
    - path: ../../stages/core/job.py
      hash: md5
      md5: 46e7226b4758aa6acc48c9d3bee6ae46
      size: 12
    params:
      ../../params.yaml:
        demo.rows: 600
    outs:
    - path: ../../work/demo/prepare
      hash: md5
      md5: ae46ce7e226b4758aa6acc48c9d3bee6.dir
      size: 4096
      nfiles: 3
"""


def test_whatever_a_kill_leaves_of_a_lock_file_dvc_can_go_on(root: Path) -> None:
    """Cut at every byte: what stays is what DVC itself accepts, and the whole file stays."""
    lock = root / "pipelines/demo/dvc.lock"
    stayed = []
    for length in range(len(LOCK) + 1):
        lock.write_text(LOCK[:length])
        if not healed(root):
            stayed.append(length)
            strictyaml.load(str(lock), LOCKFILE_SCHEMA)
    assert len(LOCK) in stayed and len("schema: '2.0'\n") in stayed
    assert len("schema: '2.0'\nstages:\n  prepare:\n") not in stayed
    assert 0 not in stayed
