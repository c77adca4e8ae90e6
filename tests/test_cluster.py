"""`make repro CLUSTER=…`: stages on other machines, and byte for byte what `dvc repro` gives.

Machines are processes here, each in a clone of its own, that share a DVC remote and nothing else.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests import project
from tests.test_remotes import free_port, s3, ssh  # noqa: F401  (fixtures)

pytestmark = pytest.mark.slow
WAIT = 90.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's own folder: one for all tests, since its database takes ten seconds to make."""
    return tmp_path_factory.mktemp("prefect")


class Lab:
    """A caller, a scheduler and workers, each in a clone; all output goes to files.

    Args:
        host: address at which the scheduler listens.
    """

    def __init__(self, folder: Path, home: Path, store: str = "", host: str = "127.0.0.1") -> None:
        self.folder, self.home, self.host = folder, home, host
        self.env = {**project.ENV, "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"}
        self.address = f"tcp://{host}:{free_port()}"
        self.started: list[subprocess.Popen[bytes]] = []
        self.store = store or f"{folder}/store"
        origin = project.make(folder / "origin", git=True)
        shutil.copy(project.ROOT / "pipelines/flow.py", origin / "pipelines")
        project.change(origin, "demo.teach.pause", 0.05)
        project.run(origin, "dvc", "remote", "add", "-d", "store", self.store)
        project.run(origin, "dvc", "remote", "modify", "store", "verify", "true")
        project.run(origin, "git", "add", "-A")
        project.run(origin, "git", "commit", "-qm", "the project")

    def clone(self, name: str) -> Path:
        project.run(self.folder, "git", "clone", "-q", "origin", name)
        own = self.folder / "origin/.dvc/config.local"  # such as a user's key
        if own.is_file():
            shutil.copy(own, self.folder / name / ".dvc")
        return self.folder / name

    def share_through(self, remote: Callable[[Path], None]) -> None:
        """Have the project name another remote; before there are clones."""
        origin = self.folder / "origin"
        remote(origin)
        project.run(origin, "dvc", "remote", "modify", "store", "verify", "true")
        project.run(origin, "git", "commit", "-qam", "another remote")

    def start(
        self, name: str, cwd: Path, *words: str, through: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start `python -m <words>`, by way of the command `through`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*through, sys.executable, "-m", *words],
                cwd=cwd, env=self.env, stdout=log, stderr=log,
            )  # fmt: skip
        self.started.append(process)
        return process

    def said(self, name: str) -> str:
        log = self.folder / f"{name}.log"
        return log.read_text() if log.is_file() else ""

    def scheduler(self) -> subprocess.Popen[bytes]:
        port = self.address.rpartition(":")[2]
        words = ["--host", self.host, "--port", port, "--no-dashboard"]
        return self.start("scheduler", self.folder, "distributed.cli.dask_scheduler", *words)

    def worker(
        self, name: str, host: str = "127.0.0.1", through: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        where = self.folder / name
        where = where if where.is_dir() else self.clone(name)
        words = ("stages", "join", self.address, "--host", host)
        return self.start(name, where, *words, through=through)

    def webdav(self) -> subprocess.Popen[bytes]:
        """The server of the remote `store`, which is webdav://<host>:<port>/store."""
        served = self.folder / "dav"
        (served / "store").mkdir(parents=True, exist_ok=True)
        port = self.store.rpartition(":")[2].removesuffix("/store")
        words = ["wsgidav.server.server_cli", "--host", self.host, "--port", port]
        return self.start("dav", self.folder, *words, "--root", str(served), "--auth", "anonymous")

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
@pytest.mark.parametrize("kind", ["ssh", "s3"])
def test_workers_share_through_a_server(
    kind: str, tmp_path: Path, home: Path, expected: dict[str, str], request: pytest.FixtureRequest
) -> None:
    remote = request.getfixturevalue(kind)
    lab = Lab(tmp_path, home)
    try:
        lab.share_through(remote)
        lab.scheduler()
        for name in ("one", "two"):
            lab.worker(name)
        where = lab.clone("caller")
        told = finished(lab, lab.caller(where), "caller")
    finally:
        lab.close()
    assert project.outputs(where) == expected
    assert not (where / "work/.logs/demo").exists(), told
    for path in expected:
        assert (where / path).exists()


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
def test_a_caller_that_is_interrupted_ends_its_stages(lab: Lab, expected: dict[str, str]) -> None:
    lab.scheduler()
    where, caller = teaching(lab, "one")
    left = lab.folder / "one/work/.resume/demo/teach"
    lab.until("no checkpoint", lambda: list(left.glob("*/net/state.pt")))
    caller.send_signal(signal.SIGINT)
    lab.until("the caller does not end", lambda: caller.poll() is not None)
    assert caller.returncode == 130, lab.said("caller")
    lab.until("the stage lives on", lambda: not lab.teaching("one"))
    assert not (lab.folder / "one/work/demo/teach").exists()
    assert list(left.glob("*/net/state.pt"))
    finished(lab, lab.caller(where), "caller")
    assert project.outputs(where) == expected


@pytest.mark.long
def test_two_callers_at_once_on_one_clone(lab: Lab, expected: dict[str, str]) -> None:
    lab.scheduler()
    for name in ("one", "two"):
        lab.worker(name)
    where = lab.clone("caller")
    first, second = lab.caller(where), lab.caller(where)
    lab.until("they do not end", lambda: None not in (first.poll(), second.poll()), 3 * WAIT)
    assert (first.returncode, second.returncode) == (0, 0), lab.said("caller")
    assert project.outputs(where) == expected
    assert len(list((where / "receipts/demo").glob("*.json"))) == 5
    told = finished(lab, lab.caller(where), "caller")
    assert told.rpartition("nothing has changed; nothing to run")[1]


@pytest.fixture
def dav(tmp_path: Path, home: Path) -> Iterator[Lab]:
    """A lab whose remote is a WebDAV server."""
    made = Lab(tmp_path, home, f"webdav://127.0.0.1:{free_port()}/store")
    yield made
    made.close()


@pytest.mark.long
def test_the_remote_may_be_away_for_a_while(dav: Lab, expected: dict[str, str]) -> None:
    server = dav.webdav()
    dav.scheduler()
    where, caller = teaching(dav, "one")
    server.kill()
    server.wait()
    time.sleep(60)
    dav.webdav()
    finished(dav, caller, "caller")
    assert project.outputs(where) == expected
    assert any((dav.folder / "dav/store").rglob("*")), "nothing was stored"


@pytest.mark.long
@pytest.mark.parametrize("here", [False, True])
def test_a_damaged_file_of_the_remote_is_replaced(
    lab: Lab, expected: dict[str, str], here: bool
) -> None:
    """By the caller, where the result is `here`, and else by a worker that makes it again."""
    first = lab.clone("first")
    project.repro(first)
    project.run(first, "dvc", "push", "-q")
    whole = first / "work/demo/teach/model.safetensors"
    copy = project.rot(lab.folder / "store", whole)
    assert copy.read_bytes() != whole.read_bytes()
    lab.scheduler()
    lab.worker("one")
    where = first if here else lab.clone("caller")
    if here:  # what stands on it must run again, by a commit of which nobody has a result
        project.change(where, "demo.prune.share", 0.25)
        project.run(where, "git", "commit", "-qam", "a smaller share")
        project.run(where, "git", "push", "-q", "origin", "HEAD:refs/heads/other")
    else:
        for name in ("pipelines/demo/dvc.lock", "work/environment.json", "work/device.json"):
            (where / name).parent.mkdir(exist_ok=True)
            shutil.copy(first / name, where / name)
    finished(lab, lab.caller(where), where.name)
    if not here:
        assert project.outputs(where) == expected
    assert project.outputs(where)["work/demo/teach"] == expected["work/demo/teach"]
    project.run(where, "dvc", "status", "-q", "pipelines/demo/dvc.yaml")
    for there in (copy, where / "work/demo/teach/model.safetensors"):
        assert there.read_bytes() == whole.read_bytes()


class Wire(NamedTuple):
    """A network namespace and the two ends of the cable to it."""

    name: str
    link: str
    near: str
    far: str


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


ASKED = """
import socket
host, port = "{}".removeprefix("tcp://").split(":")
socket.create_connection((host, int(port)), timeout=3)
"""


@pytest.fixture
def wire() -> Iterator[Wire]:
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("only root, with iproute2, may make a network")
    number = os.getpid() % 250
    wire = Wire(f"retort{number}", f"rt{number}a", f"10.203.{number}.1", f"10.203.{number}.2")
    subprocess.run(["ip", "netns", "del", wire.name], check=False, capture_output=True)
    ip("netns", "add", wire.name)
    try:
        far = f"rt{number}b"
        ip("link", "add", wire.link, "type", "veth", "peer", "name", far, "netns", wire.name)
        ip("addr", "add", f"{wire.near}/24", "dev", wire.link)
        ip("link", "set", wire.link, "up")
        ip("-n", wire.name, "addr", "add", f"{wire.far}/24", "dev", far)
        ip("-n", wire.name, "link", "set", far, "up")
        ip("-n", wire.name, "link", "set", "lo", "up")
        yield wire
    finally:
        ip("netns", "del", wire.name)


@pytest.mark.long
def test_the_network_may_be_cut_for_a_minute(
    tmp_path: Path, home: Path, wire: Wire, expected: dict[str, str]
) -> None:
    """A worker in a network of its own loses scheduler, caller and remote in the middle."""
    lab = Lab(tmp_path, home, f"webdav://{wire.near}:{free_port()}/store", wire.near)
    try:
        lab.webdav()
        lab.scheduler()
        lab.worker("one", wire.far, ("ip", "netns", "exec", wire.name))
        where = lab.clone("caller")
        caller = lab.caller(where)
        lab.until("nobody teaches", lambda: lab.teaching("one"))
        ip("link", "set", wire.link, "down")
        away = ["ip", "netns", "exec", wire.name, sys.executable, "-c", ASKED.format(lab.address)]
        assert subprocess.run(away, capture_output=True, check=False).returncode
        time.sleep(60)
        ip("link", "set", wire.link, "up")
        finished(lab, caller, "caller")
        assert project.outputs(where) == expected
    finally:
        lab.close()
