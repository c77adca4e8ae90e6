"""Forks of the warm process: the same bytes, streams, signals and exit codes as a cold start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stages.core import warm
from tests import project

DESK = {"profile": "desk", "threads": 1}
SLEEPS = """
import os, time
from stages.core import params as core
from stages.core.files import write_bytes

class Params(core.Params):
    numbers: int

def run(params, inputs, out, job):
    (job.root / "pid").write_text(str(os.getpid()))
    time.sleep(60)
"""
LOOKS = '''
import sys
hidden = "torch" not in sys.modules and not any(n.startswith("torch.") for n in sys.modules)
import torch.nn.functional as F
import torch
from stages.core import params as core
from stages.core.files import write_json

class Params(core.Params):
    numbers: int

def run(params, inputs, out, job):
    write_json(out / "seen.json", {
        "hidden": hidden, "same": F is torch.nn.functional, "spec": torch.__spec__.origin,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    })
    print("to stdout")
'''  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = project.make(tmp_path_factory.mktemp("warm") / "p")
    project.run(made, sys.executable, "-m", "stages", "fingerprint")
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[dict[str, str]]:
    with warm.kept(folder, DESK) as extra:
        yield extra


def start(folder: Path, env: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stages", *words], cwd=folder, env={**project.ENV, **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def prepare_is(folder: Path, text: str) -> None:
    (folder / "pipelines/demo/prepare.py").write_text(text)


def sleeping(folder: Path) -> psutil.Process:
    """The process that runs the stage, once it does."""
    pid = folder / "pid"
    while not pid.is_file() or not pid.read_text():
        time.sleep(0.02)
    found = psutil.Process(int(pid.read_text()))
    pid.unlink()
    return found


def ends(process: psutil.Process) -> bool:
    """Whether it is gone within 10 s; a dead one may wait for its parent's farewell."""
    for _ in range(500):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_a_fork_sees_torch_only_once_it_is_imported_and_edited_code_at_once(
    folder: Path, server: dict[str, str]
) -> None:
    from stages.core.files import read_json

    prepare_is(folder, LOOKS)
    process = start(folder, server, "prepare", "demo")
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "to stdout" in out
    seen = read_json(folder / "work/demo/prepare/seen.json")
    assert seen["hidden"] and seen["same"] and seen["deterministic"]
    assert seen["spec"].endswith("torch/__init__.py")
    prepare_is(folder, LOOKS.replace("to stdout", "edited"))
    assert "edited" in start(folder, server, "prepare", "demo").communicate(timeout=60)[0]


def test_a_users_mistake_has_its_message_and_exit_code(
    folder: Path, server: dict[str, str]
) -> None:
    process = start(folder, server, "prepare", "nobody")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "unknown paper 'nobody'" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_stage(folder: Path, server: dict[str, str], number: int) -> None:
    prepare_is(folder, SLEEPS)
    process = start(folder, server, "prepare", "demo")
    stage = sleeping(folder)
    assert stage.pid != process.pid
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "continues from the last checkpoint" in errors
    assert ends(stage)


def test_a_killed_door_takes_its_stage_along(folder: Path, server: dict[str, str]) -> None:
    prepare_is(folder, SLEEPS)
    process = start(folder, server, "prepare", "demo")
    stage = sleeping(folder)
    process.kill()
    process.communicate()
    assert ends(stage)


def test_a_killed_stage_is_a_failed_command(folder: Path, server: dict[str, str]) -> None:
    prepare_is(folder, SLEEPS)
    process = start(folder, server, "prepare", "demo")
    sleeping(folder).kill()
    process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGKILL


def test_a_killed_warm_process_takes_its_stages_along_and_later_ones_start_cold(
    folder: Path,
) -> None:
    prepare_is(folder, SLEEPS)
    with warm.kept(folder, DESK) as extra:
        process = start(folder, extra, "prepare", "demo")
        stage = sleeping(folder)
        stage.parent().kill()
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 128 + signal.SIGKILL
        assert "the warm process was killed" in errors
        assert ends(stage)
        prepare_is(folder, LOOKS)
        assert start(folder, extra, "prepare", "demo").wait(timeout=60) == 0


@pytest.mark.parametrize(("profile", "answer"), [("desk", "None"), ("smoke", "2")])
def test_bench_starts_cold_but_in_smoke(folder: Path, profile: str, answer: str) -> None:
    with warm.kept(folder, {**DESK, "profile": profile}) as extra:
        code = "from stages.core import warm; print(warm.ask(['bench', 'demo']))"
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env={**project.ENV, **extra},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert ran.stdout.split()[-1] == answer, ran.stderr


def test_several_threads_start_cold(folder: Path) -> None:
    with warm.kept(folder, {**DESK, "threads": 2}) as extra:
        assert not extra


def test_the_imports_are_paid_once_by_the_first_receipt(folder: Path) -> None:
    from stages.core.files import read_json

    prepare_is(folder, LOOKS)
    spent = []
    with warm.kept(folder, DESK) as extra:
        for _ in range(2):
            start(folder, extra, "prepare", "demo").communicate(timeout=60)
            (receipt,) = (folder / "receipts").rglob("prepare*.json")
            spent.append(read_json(receipt)["cpu_seconds"])
    assert spent[0] > spent[1] + 1


def test_the_warm_process_ends_with_its_starter(folder: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from stages.core import warm\n"
        f"with warm.kept(Path({str(folder)!r}), {DESK}) as extra:\n"
        "    print(os.getpid(), flush=True); sys.stdin.read()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.stdout and int(starter.stdout.readline()) == starter.pid
    (below,) = psutil.Process(starter.pid).children()
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    assert ends(below)


@pytest.mark.slow
def test_bytes_are_those_of_a_cold_run(tmp_path: Path) -> None:
    cold, forked = (project.make(tmp_path / name) for name in ("cold", "forked"))
    project.repro(cold)
    project.run(forked, sys.executable, "-m", "stages", "repro", "--paper", "demo")
    assert project.outputs(forked) == project.outputs(cold)
