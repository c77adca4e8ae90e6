"""`make repro JOBS=2`: side by side, and byte for byte what `dvc repro` gives."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests import project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's own folder: one for all tests, since its database takes ten seconds to make."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = project.make(tmp_path / "p")
    shutil.copy(project.ROOT / "pipelines/flow.py", made / "pipelines")
    return made


def environment(home: Path) -> dict[str, str]:
    return {**project.ENV, "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"}


def side_by_side(folder: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages", "repro", "--jobs", "2", *words],
        cwd=folder, env=environment(home), capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_bytes_are_those_of_dvc_repro(folder: Path, home: Path, tmp_path: Path) -> None:
    plain = project.make(tmp_path / "plain")
    project.repro(plain)
    done = side_by_side(folder, home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.outputs(folder) == project.outputs(plain)
    lines = done.stdout.splitlines()
    first = [i for i, line in enumerate(lines) if line.startswith("demo prune@")]
    assert [lines[i].rpartition(" ")[2] for i in first[:2]] == ["started", "started"]
    assert any(re.match(r"beside their own work stages took \d+\.\d s each", x) for x in lines)
    assert project.run(folder, "dvc", "status", "pipelines/demo/dvc.yaml").stdout.startswith("Data")
    # Where nothing must run, Prefect, whose start alone takes eight seconds, is not started.
    shutil.copy(folder / "pipelines/flow.py", tmp_path)
    (folder / "pipelines/flow.py").write_text("raise SystemExit('Prefect was started')\n")
    again = side_by_side(folder, home)
    assert again.returncode == 0 and "nothing has changed; nothing to run" in again.stdout


@pytest.mark.long
def test_both_ways_are_timed_and_compared(tmp_path: Path, home: Path) -> None:
    folder = project.make(tmp_path / "p", git=True)
    shutil.copy(project.ROOT / "pipelines/flow.py", folder / "pipelines")
    words = [sys.executable, "-m", "stages", "verify", "--profile", "desk", "--jobs", "2"]
    done = subprocess.run(
        words, cwd=folder, env=environment(home), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    for what in ("from nothing", "nothing left to run"):
        assert re.search(
            rf"^{what}: [\d.]+ s with JOBS=2, [\d.]+ s by bare `dvc repro`", told, re.M
        )
    agree = re.search(r"^(\d+) of (\d+) outputs and verdicts", told, re.M)
    assert agree and agree[1] == agree[2] == str(len(project.outputs(side(folder, "b"))))


def side(folder: Path, letter: str) -> Path:
    return folder / f"work/.profiles/verify-desk-{letter}"


def test_a_failure_stops_what_stands_on_it_and_no_more(folder: Path, home: Path) -> None:
    code = folder / "pipelines/demo/prune.py"
    text = code.read_text()
    broken = """    from stages.core.errors import UserError

    if params.variant.by == "order":
        raise UserError("no such order")
    from safetensors"""
    code.write_text(text.replace("    from safetensors", broken, 1))
    done = side_by_side(folder, home)
    assert done.returncode == 1
    assert "demo prune@first-0-1: ran" in done.stdout
    assert "demo prune@second-0-1: failed" in done.stdout
    assert "left out for it: demo evaluate" in done.stdout
    assert "no such order" in done.stdout.split("not complete:")[1]
    assert done.stdout.count("demo prune@second-0-1: started") == 1
    code.write_text(text)
    assert side_by_side(folder, home).returncode == 0


def test_a_stage_that_was_killed_is_tried_again(folder: Path, home: Path) -> None:
    killed: list[int] = []

    def kill() -> None:
        state = folder / "work/.resume/demo/teach"
        while not list(state.glob("*/net/state.pt")):
            time.sleep(0.01)
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = process.info["cmdline"] or []
            if words[1:] == ["-m", "stages", "teach", "demo"] and process.info["cwd"] == str(
                folder
            ):
                killed.append(process.pid)
                process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    done = side_by_side(folder, home)
    thread.join()
    assert killed
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo teach: ran" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_every_process(folder: Path, home: Path, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "stages", "repro", "--jobs", "2"], cwd=folder,
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not list((folder / "work/.resume/demo/teach").glob("*/net/state.pt")):
        assert process.poll() is None
        time.sleep(0.01)
    below = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, number)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "continues from the last checkpoint" in told
    _, alive = psutil.wait_procs(below, timeout=10)
    assert not alive
    assert not (folder / "work/demo/teach").exists()
    assert side_by_side(folder, home).returncode == 0


def servers() -> list[psutil.Process]:
    """Prefect's temporary servers."""
    processes = psutil.process_iter(["cmdline"])
    return [
        p for p in processes if "prefect.server.api.server:create_app" in (p.info["cmdline"] or [])
    ]


def test_a_caller_that_was_killed_is_started_again(folder: Path, home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "stages", "repro", "--jobs", "2"], cwd=folder,
        env=environment(home), **project.QUIET, start_new_session=True,
    )  # fmt: skip
    while not list((folder / "work/.resume/demo/teach").glob("*/net/state.pt")):
        assert process.poll() is None
        time.sleep(0.01)
    left = [p for p in psutil.Process(process.pid).children(recursive=True) if p in servers()]
    assert len(left) == 1
    process.kill()
    process.wait()
    done = side_by_side(folder, home)
    assert done.returncode == 0, done.stdout + done.stderr
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive
    assert project.run(folder, "dvc", "status", "pipelines/demo/dvc.yaml").stdout.startswith("Data")


def test_no_jobs_at_all(folder: Path, home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages", "repro", "--jobs", "0"],
        cwd=folder, env=environment(home), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "write a number from 1 on" in done.stderr
