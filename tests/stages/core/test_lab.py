"""`make serve LAB=1`: PostgreSQL and passwords; who has none is refused; nothing is lost."""

from __future__ import annotations

import base64
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from stages.core import lab_database
from stages.core.errors import UserError
from stages.core.lab import DATABASE, PASSWORD, SECRETS, Lab, read_lab
from tests import project
from tests.stages.core.tracking.told import POINTS, WRITERS, write_at_once

HOST = "127.0.0.1"
ADMIN, BASE = "for-the-servers-1", "for-the-database-2"
"""The two passwords: they must not be seen anywhere."""
NAMES = lab_database.DATABASES


def lacking() -> str:
    """What real servers would need and is not here."""
    if binaries() is None:
        return "PostgreSQL's programs are not installed (Debian: postgresql)"
    packages = ("psycopg2", "flask_wtf")
    there = all(importlib.util.find_spec(name) for name in packages)
    return "" if there else "packages are missing: pip install -c constraints.txt -e '.[lab]'"


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs, which Debian keeps out of PATH."""
    known = shutil.which("initdb")
    found = [Path(known).parent] if known else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return found[-1] if found and (found[-1] / "initdb").is_file() else None


def real(test: Any) -> Any:
    """Mark a test that runs PostgreSQL, MLflow and Prefect."""
    for mark in (
        pytest.mark.long,
        pytest.mark.slow,
        pytest.mark.skipif(bool(lacking()), reason=lacking()),
    ):
        test = mark(test)
    return test


def free() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


# What goes wrong before any server starts


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which all is well; there is no PostgreSQL at its address."""
    for name in (SECRETS, "PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(PASSWORD, ADMIN)
    monkeypatch.setenv(DATABASE, f"postgresql://me:{BASE}@{HOST}:{free()}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    return monkeypatch


def test_no_address_holds_a_password(given: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lab = read_lab(tmp_path, HOST)
    env = lab.database_env()
    assert env.pop("PGPASSWORD") == BASE
    assert re.fullmatch(rf"postgresql://me@{HOST}:\d+/mlflow", env["MLFLOW_BACKEND_STORE_URI"])
    shown = f"{lab} {env} {lab.mlflow_words(1)}"
    lab.mlflow_env(tmp_path)
    shown += (tmp_path / "work/.lab/mlflow.ini").read_text()
    assert ADMIN not in shown and BASE not in shown


def test_secrets_come_from_a_file_outside_the_project(
    given: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (root := tmp_path / "project").mkdir()
    path = tmp_path / "secrets"
    path.write_text(f"# ours\nPGPASSWORD = {BASE}\n{PASSWORD}=of-the-file-0000\n")
    path.chmod(0o600)
    given.setenv(SECRETS, str(path))
    given.setenv(DATABASE, "postgresql://me@[::1]")
    lab = read_lab(root, HOST)
    assert (lab.database_password, lab.password, lab.place) == (BASE, ADMIN, "[::1]:5432")
    given.delenv(PASSWORD)
    assert read_lab(root, HOST).password == "of-the-file-0000"

    path.chmod(0o640)
    with pytest.raises(UserError, match=r"open to other users: chmod 600"):
        read_lab(root, HOST)
    path.chmod(0o600)
    path.write_text(f"PASSWORD={ADMIN}\n")
    with pytest.raises(UserError, match=r"line 1: write KEY=VALUE") as error:
        read_lab(root, HOST)
    assert ADMIN not in str(error.value)
    given.setenv(SECRETS, str(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_lab(root, HOST)
    inside = root / "secrets"
    inside.write_text("")
    given.setenv(SECRETS, str(root / "../project/secrets"))
    with pytest.raises(UserError, match="inside the project"):
        read_lab(root, HOST)


@pytest.mark.parametrize("password", ["", "too-short", "with a space in it", "mit-Umläuten-123"])
def test_passwords_that_cannot_be_used(
    given: pytest.MonkeyPatch, tmp_path: Path, password: str
) -> None:
    given.setenv(PASSWORD, password)
    with pytest.raises(UserError, match=PASSWORD) as error:
        read_lab(tmp_path, HOST)
    assert not password or password not in str(error.value)


@pytest.mark.parametrize(
    "address", ["", "mysql://me@h", "postgresql://h:1", "postgresql://me:pw-0@h/base",
                "postgresql://me:pw-0@h:no", "postgresql://me@h?sslmode=require", "me:pw-0@[h"],
)  # fmt: skip
def test_addresses_that_cannot_be_used(
    given: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    given.setenv(DATABASE, address)
    with pytest.raises(UserError, match=DATABASE) as error:
        read_lab(tmp_path, HOST)
    assert "pw-0" not in str(error.value)


def test_a_missing_package_is_named(given: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given.setattr("importlib.util.find_spec", lambda name: name != "psycopg2")
    with pytest.raises(UserError, match=r"needs psycopg2-binary: pip install .*\[lab\]"):
        read_lab(tmp_path, HOST)


def test_a_database_that_is_away_is_told(given: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("psycopg2")
    lab = read_lab(tmp_path, HOST)
    with pytest.raises(UserError, match=f"{lab.place}, user me: .*refused.*PGPASSWORD") as error:
        lab_database.prepare(tmp_path, lab)
    assert BASE not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"), [(["--lab"], PASSWORD), (["--host", "0.0.0.0"], "goes with --lab")]
)
def test_the_door_says_so_and_ends_with_2(words: list[str], said: str) -> None:
    env = {k: v for k, v in os.environ.items() if k not in (PASSWORD, DATABASE, SECRETS)}
    done = subprocess.run(
        [sys.executable, "-m", "stages", "serve", *words],
        cwd=project.ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert said in done.stderr or (lacking() and "'.[lab]'" in done.stderr)


# Real servers


@dataclass
class Cluster:
    """A PostgreSQL of one's own, whose user `lab` may create databases and no more."""

    folder: Path
    port: int = field(default_factory=free)

    def run(self, program: str, *words: str) -> None:
        """Run one of PostgreSQL's programs, which refuse to be run by root."""
        there = binaries()
        assert there
        who: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []}
        done = subprocess.run(
            [str(there / program), *words],
            cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            **(who if os.geteuid() == 0 else {}),
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def env(self) -> dict[str, str]:
        """What PostgreSQL's programs need to know of it."""
        known = {"PGHOST": HOST, "PGPORT": str(self.port), "PGUSER": "lab", "PGPASSWORD": BASE}
        return {**os.environ, **known, "PATH": f"{binaries()}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    import psycopg2

    # Not in pytest's folder, which only its owner may enter.
    made = Cluster(Path(tempfile.mkdtemp(prefix="postgres-")))
    if os.geteuid() == 0:
        shutil.chown(made.folder, "postgres", "postgres")
    data = str(made.folder / "data")
    words = ["--locale=C", "--encoding=UTF8", "--username=postgres", "--auth-local=trust"]
    made.run("initdb", "-D", data, *words, "--auth-host=scram-sha-256")
    listens = f"-p {made.port} -k {made.folder} -c listen_addresses={HOST}"
    made.run("pg_ctl", "-D", data, "-w", "-l", str(made.folder / "log"), "-o", listens, "start")
    try:
        base = psycopg2.connect(host=str(made.folder), port=made.port, user="postgres")
        base.autocommit = True
        base.cursor().execute("CREATE ROLE lab LOGIN CREATEDB PASSWORD %s", [BASE])
        base.close()
        yield made
    finally:
        made.run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(made.folder)


@dataclass
class Servers:
    """`serve --lab` in a project of its own, and what was seen of it."""

    folder: Path
    env: dict[str, str]
    process: subprocess.Popen[str] | None = None
    lines: list[str] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    """Command lines of all its processes."""
    mlflow: str = ""
    prefect: str = ""

    def start(self) -> None:
        ports = [f"--{name}-port=0" for name in ("mlflow", "prefect", "report")]
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "stages", "serve", "--lab", *ports],
            cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        self.lines = []
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if "Ctrl-C" in line:
                break
        up = {x.split()[0]: x.split()[1] for x in self.lines if " up after " in x}
        assert set(up) == {"MLflow", "Prefect"}, (self.lines, self.logs())
        self.mlflow, self.prefect = up["MLflow"], up["Prefect"]

    def stop(self) -> float:
        """Ctrl-C; gives the seconds until all has ended."""
        assert self.process and self.process.stdout
        tree, begun = self.tree(), time.monotonic()
        self.process.send_signal(signal.SIGINT)
        rest = self.process.stdout.read()
        assert self.process.wait(40) == 0 and "all servers have ended" in rest, rest
        assert not any(one.is_running() for one in tree)
        self.process = None
        return time.monotonic() - begun

    def tree(self) -> list[psutil.Process]:
        assert self.process
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def logs(self) -> str:
        files = sorted((self.folder / "work/.logs").rglob("*.log"))
        return "\n".join(file.read_text(errors="replace") for file in files)

    def user(self) -> dict[str, str]:
        """What a stage needs to know to record there."""
        known = {"USERNAME": "admin", "PASSWORD": ADMIN, "URI": self.mlflow.rstrip("/")}
        return {f"MLFLOW_TRACKING_{name}": value for name, value in known.items()}

    def _watch(self) -> None:
        while self.process and self.process.poll() is None:
            for one in self.tree():
                try:
                    self.words.add(" ".join(one.cmdline()))
                except psutil.Error:
                    continue
            time.sleep(0.1)


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    outside = tmp_path_factory.mktemp("lab")
    folder = project.make(outside / "project")
    secrets = outside / "secrets"
    secrets.touch(0o600)
    secrets.write_text(f"{PASSWORD}={ADMIN}\nPGPASSWORD={BASE}\n")
    ours = re.compile("MLFLOW|PREFECT|PG|RETORT")
    env = {k: v for k, v in os.environ.items() if not ours.match(k)}
    env |= {
        SECRETS: str(secrets),
        DATABASE: f"postgresql://lab@{HOST}:{cluster.port}",
        "PREFECT_HOME": str(outside / "home"),
    }
    servers = Servers(folder, env)
    servers.start()
    try:
        yield servers
    finally:
        if servers.process:
            servers.process.send_signal(signal.SIGINT)
            servers.process.wait(40)


def ask(
    address: str, path: str, body: Any = None, password: str | None = None, method: str = ""
) -> tuple[int, str]:
    """Status and text of a request whose path goes out as it is written."""
    line = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    headers = {"Content-Type": "application/json"}
    if password is not None:
        login = base64.b64encode(f"admin:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    method = method or ("GET" if body is None else "POST")
    line.request(method, path, None if body is None else json.dumps(body), headers)
    answer = line.getresponse()
    text = answer.read().decode(errors="replace")
    line.close()
    return answer.status, text


def api(lab: Servers, path: str, body: Any = None) -> Any:
    """What MLflow answers its administrator."""
    status, text = ask(lab.mlflow, f"/api/2.0/mlflow/{path}", body, ADMIN)
    assert status == 200, text
    return json.loads(text)


def recorded(lab: Servers, experiment: str) -> dict[str, dict[str, Any]]:
    """The runs of an experiment by name."""
    asked = {"experiment_ids": [experiment], "max_results": 1000}
    runs = api(lab, "runs/search", asked).get("runs", [])
    return {run["info"]["run_name"]: run for run in runs}


@real
def test_all_listen_on_loopback_alone(lab: Servers) -> None:
    found = [c for one in lab.tree() for c in one.net_connections("inet")]
    listening = {c.laddr for c in found if c.status == psutil.CONN_LISTEN}
    assert len(listening) == 3 and {place.ip for place in listening} == {HOST}


MLFLOW = [
    ("POST", "/api/2.0/mlflow/experiments/search", {"max_results": 1}),
    ("GET", "/api/2.0/mlflow/users/list", None),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts", None),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts/0/a", None),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/a", {}),
    ("GET", "/", None),
]
PREFECT = [
    ("POST", "/api/flow_runs/filter", {}),
    ("GET", "/api/admin/settings", None),
    ("POST", "/api/work_pools/", {"name": "mine", "type": "process"}),
]


@real
@pytest.mark.parametrize(("name", "requests"), [("mlflow", MLFLOW), ("prefect", PREFECT)])
def test_who_has_no_password_is_refused(
    lab: Servers, name: str, requests: list[tuple[str, str, Any]]
) -> None:
    address = getattr(lab, name)
    for method, path, body in requests:
        for password in (None, "", "of-someone-else", BASE):
            status, _ = ask(address, path, body, password, method)
            assert status in (401, 403), (path, password)
    method, path, body = requests[0]
    assert ask(address, path, body, ADMIN, method)[0] == 200


@real
def test_artifacts_stay_below_their_root(lab: Servers) -> None:
    place = "/api/2.0/mlflow-artifacts/artifacts"
    for up in ("../", "%2e%2e/", "%2e%2e%2f", "%252e%252e%252f", "a/../../", "/"):
        assert ask(lab.mlflow, f"{place}/{up}params.yaml", None, ADMIN)[0] >= 400, up
        status, text = ask(lab.mlflow, f"{place}?path={up}", None, ADMIN)
        assert status >= 400 or text == "{}", (up, text)
        for method, body in (("PUT", {}), ("DELETE", None)):
            status, _ = ask(lab.mlflow, f"{place}/{up}mine", body, ADMIN, method)
            assert status >= 300, (method, up)  # a redirect is to a path below the root
    assert not list(lab.folder.parent.rglob("mine"))
    assert ask(lab.mlflow, f"{place}/0/mine", {}, ADMIN, "PUT")[0] == 200
    assert (lab.folder / "mlartifacts/0/mine").read_text() == "{}"


@real
def test_writers_at_once_lose_nothing(lab: Servers) -> None:
    made = api(lab, "experiments/create", {"name": f"load-{time.time_ns()}"})["experiment_id"]
    write_at_once(made, lab.user())
    runs = recorded(lab, made)
    assert len(runs) == WRITERS
    for run in runs.values():
        asked = f"run_id={run['info']['run_id']}&metric_key=loss&max_results=1000"
        points = api(lab, f"metrics/get-history?{asked}")["metrics"]
        assert {int(p["step"]): p["value"] for p in points} == {n: n / 7 for n in range(POINTS)}
        assert len(points) == POINTS


def papers(lab: Servers) -> dict[str, str]:
    """Experiments by name."""
    found = api(lab, "experiments/search", {"max_results": 100})["experiments"]
    return {entry["name"]: entry["experiment_id"] for entry in found}


@real
def test_stages_and_track_record_there(lab: Servers) -> None:
    project.repro(lab.folder, RETORT_TRACKING="on", **lab.user())
    words = [sys.executable, "-m", "stages", "track"]
    said = project.run(lab.folder, *words, **lab.user()).stdout
    assert lab.mlflow.rstrip("/") in said and "refused" not in said
    runs = recorded(lab, papers(lab)["demo"])
    assert {"prepare", "teach"} <= set(runs)
    assert {run["info"]["status"] for run in runs.values()} == {"FINISHED"}
    assert not (lab.folder / "mlflow.db").exists()


@real
def test_no_password_is_seen(lab: Servers) -> None:
    assert any("mlflow db upgrade" in words for words in lab.words)
    assert any("database upgrade" in words for words in lab.words)
    for secret in (ADMIN, BASE):
        assert not [words for words in lab.words if secret in words]
        assert secret not in "\n".join(lab.lines)
        files = [f for f in (lab.folder / "work").rglob("*") if f.is_file()]
        assert len(files) > 4 and not [f for f in files if secret.encode() in f.read_bytes()]


@real
def test_a_password_other_than_the_first_is_told(lab: Servers) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages", "serve", "--lab", "--mlflow-port=0", "--prefect-port=0"],
        cwd=lab.folder, env={**lab.env, PASSWORD: "another-password"},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"{PASSWORD} is not the password of its user 'admin'" in done.stderr


@real
def test_postgresql_refuses_and_it_is_told(cluster: Cluster, tmp_path: Path) -> None:
    wrong = Lab("lab", f"{HOST}:{cluster.port}", HOST, ADMIN, "not-its-password")
    with pytest.raises(UserError, match="password authentication failed") as error:
        lab_database.prepare(tmp_path, wrong)
    assert "not-its-password" not in str(error.value)


@real
def test_what_was_backed_up_comes_back(lab: Servers, cluster: Cluster) -> None:
    made = api(lab, "experiments/create", {"name": f"kept-{time.time_ns()}"})["experiment_id"]
    run = api(lab, "runs/create", {"experiment_id": made, "run_name": "kept"})["run"]
    where = f"{made}/{run['info']['run_id']}/artifacts/table.json"
    metric = {"run_id": run["info"]["run_id"], "key": "loss", "value": 0.5, "timestamp": 1}
    api(lab, "runs/log-metric", metric)
    file = f"/api/2.0/mlflow-artifacts/artifacts/{where}"
    assert ask(lab.mlflow, file, {"kept": True}, ADMIN, "PUT")[0] == 200
    pool = {"name": f"kept-{time.time_ns()}", "type": "process"}
    assert ask(lab.prefect, "/api/work_pools/", pool, ADMIN)[0] == 201
    before = {name: recorded(lab, number) for name, number in papers(lab).items()}

    assert lab.stop() < 30
    text = (project.ROOT / "README.md").read_text()
    text = text.partition("### Servers of a lab")[2].partition("\n### ")[0]
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    dump = [x for x in lines if re.search(r"mkdir|pg_dump|tar --create", x)]
    restore = [x for x in lines if re.search(r"pg_restore|tar --extract", x)]
    assert len(dump) == 3 and len(restore) == 2

    def shell(*words: str) -> None:
        for line in words:
            project.run(lab.folder, "bash", "-ec", line, **cluster.env())

    shell(*dump)
    assert (lab.folder / "mlartifacts" / where).is_file()
    shutil.rmtree(lab.folder / "mlartifacts")
    shell(*(f"dropdb {name}" for name in NAMES))
    shell(*restore)

    lab.start()
    assert {name: recorded(lab, number) for name, number in papers(lab).items()} == before
    assert ask(lab.mlflow, file, None, ADMIN) == (200, '{"kept": true}')
    assert ask(lab.prefect, f"/api/work_pools/{pool['name']}", None, ADMIN)[0] == 200
