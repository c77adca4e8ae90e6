"""`make repro CLUSTER=…`: stages on other machines, and byte for byte what `dvc repro` gives.

Machines are processes here, each in a clone of its own, that share a DVC remote and nothing else.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests import project
from tests.test_remotes import free_port

pytestmark = pytest.mark.slow
WAIT = 90.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's own folder: one for all tests, since its database takes ten seconds to make."""
    return tmp_path_factory.mktemp("prefect")


class Lab:
    """A caller, a scheduler and workers, each in a clone; all output goes to files."""

    def __init__(self, folder: Path, home: Path, store: str = "") -> None:
        self.folder, self.home = folder, home
        self.env = {**project.ENV, "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"}
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.started: list[subprocess.Popen[bytes]] = []
        origin = project.make(folder / "origin", git=True)
        shutil.copy(project.ROOT / "pipelines/flow.py", origin / "pipelines")
        project.change(origin, "demo.teach.pause", 0.05)
        project.run(origin, "dvc", "remote", "add", "-d", "store", store or f"{folder}/store")
        project.run(origin, "git", "add", "-A")
        project.run(origin, "git", "commit", "-qm", "the project")

    def clone(self, name: str) -> Path:
        project.run(self.folder, "git", "clone", "-q", "origin", name)
        return self.folder / name

    def start(self, name: str, cwd: Path, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=cwd, env=self.env, stdout=log, stderr=log
            )
        self.started.append(process)
        return process

    def said(self, name: str) -> str:
        log = self.folder / f"{name}.log"
        return log.read_text() if log.is_file() else ""

    def scheduler(self) -> subprocess.Popen[bytes]:
        port = self.address.rpartition(":")[2]
        words = ["--host", "127.0.0.1", "--port", port, "--no-dashboard"]
        return self.start("scheduler", self.folder, "distributed.cli.dask_scheduler", *words)

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        where = self.folder / name
        where = where if where.is_dir() else self.clone(name)
        return self.start(name, where, "stages", "join", self.address, "--host", "127.0.0.1")

    def caller(self, where: Path) -> subprocess.Popen[bytes]:
        words = ["stages", "repro", "--cluster", self.address]
        return self.start(where.name, where, *words)

    def until(self, what: str, true: Callable[[], object], seconds: float = WAIT) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, what + "".join(
                f"\n--- {log.stem}\n{log.read_text()[-3000:]}" for log in self.folder.glob("*.log")
            )
            time.sleep(0.1)

    def teaching(self, name: str) -> list[psutil.Process]:
        """The processes that run the stage teach in a clone."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = process.info["cmdline"] or []
            if process.info["cwd"] == str(self.folder / name) and "teach" in words:
                found.append(process)
        return found

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def lab(tmp_path: Path, home: Path) -> Iterator[Lab]:
    made = Lab(tmp_path, home)
    yield made
    made.close()


def teaching(lab: Lab, *workers: str) -> tuple[Path, subprocess.Popen[bytes]]:
    """The caller's clone and the caller, once one of the workers runs the stage teach."""
    for name in workers:
        lab.worker(name)
    where = lab.clone("caller")
    caller = lab.caller(where)
    lab.until("nobody teaches", lambda: any(lab.teaching(name) for name in workers))
    return where, caller


def finished(lab: Lab, caller: subprocess.Popen[bytes], name: str) -> str:
    lab.until("the caller does not end", lambda: caller.poll() is not None, 2 * WAIT)
    assert caller.returncode == 0, lab.said(name)
    return lab.said(name)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hash of every output of `dvc repro` alone."""
    plain = project.make(tmp_path_factory.mktemp("plain") / "p")
    project.change(plain, "demo.teach.pause", 0.05)
    project.repro(plain)
    return project.outputs(plain)


def test_workers_make_the_bytes_of_dvc_repro(lab: Lab, expected: dict[str, str]) -> None:
    lab.scheduler()
    for name in ("one", "two"):
        lab.worker(name)
    where = lab.clone("caller")
    told = finished(lab, lab.caller(where), "caller")
    assert project.outputs(where) == expected
    project.run(where, "dvc", "status", "-q", "pipelines/demo/dvc.yaml")
    made = [n for n in ("one", "two") if any((lab.folder / n / "receipts").rglob("*.json"))]
    assert made and not (where / "work/.logs/demo").exists(), told
    assert len(list((where / "receipts/demo").glob("*.json"))) == 5
    again = finished(lab, lab.caller(where), "caller")
    assert "nothing has changed; nothing to run" in again


def test_a_tree_that_differs_from_its_commit_is_refused(lab: Lab) -> None:
    where = lab.clone("caller")
    project.change(where, "demo.teach.pause", 0.02)
    caller = lab.caller(where)
    lab.until("the caller does not end", lambda: caller.poll() is not None)
    assert caller.returncode == 2
    assert "commit and push first" in lab.said("caller") and "Traceback" not in lab.said("caller")


def test_a_scheduler_that_is_not_there_is_a_clear_error(lab: Lab) -> None:
    caller = lab.caller(lab.clone("caller"))
    lab.until("the caller does not end", lambda: caller.poll() is not None)
    assert caller.returncode == 2
    assert "no Dask scheduler answers" in lab.said("caller")
    assert "Traceback" not in lab.said("caller")


def test_a_clone_takes_one_worker(lab: Lab) -> None:
    lab.worker("one")
    lab.until("no worker", lambda: "worker of" in lab.said("one"))
    second = lab.start("second", lab.folder / "one", "stages", "join", lab.address)
    lab.until("it does not end", lambda: second.poll() is not None)
    assert second.returncode == 2 and "a clone of its own" in lab.said("second")


@pytest.mark.long
def test_a_killed_workers_stage_runs_elsewhere(lab: Lab, expected: dict[str, str]) -> None:
    lab.scheduler()
    where, caller = teaching(lab, "one", "two")
    victim, other = ("one", "two") if lab.teaching("one") else ("two", "one")
    for process in psutil.process_iter(["cmdline", "cwd"]):
        mine = process.info["cwd"] == str(lab.folder / victim)
        if mine and "distributed.cli.dask_worker" in (process.info["cmdline"] or []):
            process.kill()
    lab.until("the orphan lives on", lambda: not lab.teaching(victim))
    lab.until("it does not run elsewhere", lambda: lab.teaching(other) or lab.teaching(victim))
    finished(lab, caller, "caller")
    assert project.outputs(where) == expected
    assert lab.said(victim).count("worker of") >= 2, "it came back"


@pytest.mark.long
def test_a_scheduler_may_be_restarted(lab: Lab, expected: dict[str, str]) -> None:
    scheduler = lab.scheduler()
    where, caller = teaching(lab, "one")
    scheduler.kill()
    scheduler.wait()
    lab.scheduler()
    finished(lab, caller, "caller")
    assert project.outputs(where) == expected


@pytest.mark.long
def test_a_caller_may_be_killed_and_started_again(lab: Lab, expected: dict[str, str]) -> None:
    lab.scheduler()
    where, caller = teaching(lab, "one")
    caller.kill()
    caller.wait()
    finished(lab, lab.caller(where), "caller")
    assert project.outputs(where) == expected
    assert len(list((lab.folder / "one/receipts/demo").glob("*.json"))) == 5


@pytest.mark.long
def test_two_callers_at_once_on_one_clone(lab: Lab, expected: dict[str, str]) -> None:
    lab.scheduler()
    for name in ("one", "two"):
        lab.worker(name)
    where = lab.clone("caller")
    first, second = lab.caller(where), lab.caller(where)
    lab.until("they do not end", lambda: None not in (first.poll(), second.poll()), 3 * WAIT)
    last = lab.caller(where)
    finished(lab, last, "caller")
    assert project.outputs(where) == expected


@pytest.mark.long
def test_the_remote_may_be_away_for_a_while(
    tmp_path: Path, home: Path, expected: dict[str, str]
) -> None:
    port = free_port()
    (tmp_path / "dav/store").mkdir(parents=True)
    words = ["wsgidav.server.server_cli", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--root", str(tmp_path / "dav"), "--auth", "anonymous"]
    lab = Lab(tmp_path, home, f"webdav://127.0.0.1:{port}/store")
    try:
        server = lab.start("dav", tmp_path, *words)
        lab.scheduler()
        where, caller = teaching(lab, "one")
        server.kill()
        server.wait()
        time.sleep(30)
        lab.start("dav", tmp_path, *words)
        finished(lab, caller, "caller")
        assert project.outputs(where) == expected
        assert any((tmp_path / "dav/store").rglob("*")), "nothing was stored"
    finally:
        lab.close()
