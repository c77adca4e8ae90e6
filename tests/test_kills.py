"""kill -9 at any moment: `dvc repro` goes on and ends with the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from stages.core.heal import heal
from tests import project

pytestmark = pytest.mark.slow

# What DVC says of its own files that a kill has left half-written, or that name a dead process.
LOCKED_OUT = ("corrupted", "validation failed", "is busy")
COMMAND = ["dvc", "repro", "pipelines/demo/dvc.yaml"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = project.make(tmp_path_factory.mktemp("whole") / "p")
    project.repro(folder)
    return project.outputs(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return project.make(tmp_path / "p")


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def killed_when(folder: Path, moment: Callable[[], bool], dvc_alone: bool = False) -> bool:
    """Start `dvc repro` and kill it, with all it started, at `moment`. False: it ended before."""
    process = subprocess.Popen(
        COMMAND, cwd=folder, env=project.ENV, start_new_session=True,
        stdout=(folder / "said.txt").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    started: list[psutil.Process] = []
    try:
        while process.poll() is None and not moment():
            time.sleep(0.0002)
        if process.poll() is not None:
            said = (folder / "said.txt").read_text()
            # A kill can catch DVC in writing its own lock; `make repro` mends that first.
            if process.returncode == 0:
                return False
            assert any(reason in said for reason in LOCKED_OUT), said
            heal(folder, print)
            return killed_when(folder, moment, dvc_alone)
        started += family(process)
        if dvc_alone:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        return True
    finally:
        process.wait()
        if not dvc_alone:
            _, alive = psutil.wait_procs(started, timeout=10)
            assert not alive


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def test_kills_at_random_instants(folder: Path, undisturbed: dict[str, str]) -> None:
    instants = random.Random(7)
    kills = ends = 0
    while kills < 22:
        if killed_when(folder, after(instants.uniform(0.2, 5.0))):
            kills += 1
            continue
        assert project.outputs(folder) == undisturbed
        ends += 1
        forget(folder)
    heal(folder, print)
    project.repro(folder)
    assert project.outputs(folder) == undisturbed
    assert ends < kills


def forget(folder: Path) -> None:
    """Start from nothing again: no output, no checkpoint, no cache, no lock file."""
    for name in ("work", ".dvc/cache", ".dvc/tmp"):
        project.shutil.rmtree(folder / name)
    (folder / "pipelines/demo/dvc.lock").unlink()


def moments(folder: Path) -> dict[str, Callable[[], bool]]:
    scratch = folder / "work/.scratch/demo/teach"
    target = folder / "work/demo/teach"
    cache = folder / ".dvc/cache/files"
    lock = folder / "pipelines/demo/dvc.lock"
    return {
        "while outputs are written": lambda: (scratch / "part05.bin").exists(),
        "right after the rename, before DVC's commit": target.exists,
        "as DVC moves outputs into its cache": lambda: target.exists() and grown(cache),
        "after DVC wrote its lock file": lambda: named(lock, "  teach:"),
    }


def grown(cache: Path) -> bool:
    """Whether the cache holds part of teach's output: prepare alone leaves three files there."""
    return sum(1 for p in cache.rglob("*") if p.is_file()) > 3


def named(lock: Path, stage: str) -> bool:
    try:
        return stage in lock.read_text()
    except FileNotFoundError:
        return False


def test_kills_in_dvcs_commit(folder: Path, undisturbed: dict[str, str]) -> None:
    for name in moments(folder):
        # The moments are short; where the machine looks away, it is tried again.
        for _ in range(6):
            hit = killed_when(folder, moments(folder)[name])
            heal(folder, print)
            project.repro(folder)
            assert project.outputs(folder) == undisturbed, name
            forget(folder)
            if hit:
                break
        assert hit, name


DYING = """
import os, signal, sys
real, calls = os.rename, 0
def rename(source, target):
    global calls
    if "demo/teach" in str(source) + str(target):
        calls += 1
        if calls == {call} and not {after}:
            os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
    if "demo/teach" in str(source) + str(target) and calls == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename
from stages.__main__ import main
main(["teach", "demo"])
"""


@pytest.mark.parametrize(("call", "after"), [(1, False), (1, True), (2, True)])
def test_kills_in_the_rename(
    folder: Path, undisturbed: dict[str, str], call: int, after: bool
) -> None:
    """Before the old output steps aside, between the two renames, and after the second."""
    project.repro(folder)
    (folder / "pipelines/demo/dvc.lock").unlink()
    died = subprocess.run(
        [project.sys.executable, "-c", DYING.format(call=call, after=after)],
        cwd=folder, env=project.ENV, capture_output=True, check=False,
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL
    assert (folder / "work/demo/teach").exists() == ((call, after) != (1, True))
    project.repro(folder)
    assert project.outputs(folder) == undisturbed


def test_an_orphan_of_a_killed_dvc_is_waited_for(folder: Path, tmp_path: Path) -> None:
    project.change(folder, "demo.teach.pause", 0.06)
    other = project.make(tmp_path / "other")
    project.change(other, "demo.teach.pause", 0.06)
    state = folder / "work/.resume/demo/teach"
    assert killed_when(folder, lambda: any(state.glob("*/net/state.pt")), dvc_alone=True)
    said = project.run(folder, *COMMAND)
    assert "still at work" in said.stderr + said.stdout
    project.repro(other)
    assert project.outputs(folder) == project.outputs(other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_cleanly_and_leaves_no_output(folder: Path, number: int) -> None:
    project.run(folder, "dvc", "repro", "pipelines/demo/dvc.yaml:prepare")
    process = subprocess.Popen(
        [project.sys.executable, "-m", "stages", "teach", "demo"], cwd=folder, env=project.ENV,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    state = folder / "work/.resume/demo/teach"
    while not any(state.glob("*/net/state.pt")):
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "continues from the last checkpoint" in errors and "Traceback" not in errors
    assert not (folder / "work/demo/teach").exists()
