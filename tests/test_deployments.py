"""Deployments for real: a Prefect server, a worker, a schedule that fires, and what comes of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests import project
from tests.test_retrain import lay, share

PREFECT = [sys.executable, "-m", "prefect"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The demo project beside a server of Prefect's of its own; gives folder and environment."""
    folder = lay(tmp_path / "p")
    shutil.copy(project.ROOT / "pipelines/flow.py", folder / "pipelines")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        **project.ENV,
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    words = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with running(words, folder, env, tmp_path / "server.log"):
        until(lambda: healthy(env), 180, tmp_path / "server.log")
        yield folder, env


@contextlib.contextmanager
def running(words: list[str], folder: Path, env: dict[str, str], log: Path) -> Iterator[None]:
    """A server in a process group of its own, all of which ends with the block."""
    with log.open("wb") as book:
        process = subprocess.Popen(
            words, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=book, stderr=book,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)


def until(there: Any, seconds: float, log: Path) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, log.read_text()[-4000:]
        time.sleep(0.5)


def healthy(env: dict[str, str]) -> bool:
    try:
        with urllib.request.urlopen(env["PREFECT_API_URL"] + "/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def outcome(folder: Path) -> str:
    path = folder / "reports/retrain/demo.json"
    return str(json.loads(path.read_text())["outcome"]) if path.is_file() else ""


@pytest.mark.long
def test_a_schedule_fires_promotes_and_refuses(
    lab: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, env = lab
    ours = yaml.safe_load((project.ROOT / "prefect.yaml").read_text())
    night = next(d for d in ours["deployments"] if d["name"] == "merlin")
    made = {**night, "name": "demo", "parameters": {"paper": "demo"}}
    made["schedules"] = [{"interval": 15}]
    (folder / "prefect.yaml").write_text(yaml.safe_dump({"name": "p", "deployments": [made]}))
    project.run(folder, *PREFECT, "work-pool", "create", "retort", "--type", "process", **env)
    project.run(folder, *PREFECT, "--no-prompt", "deploy", "--all", **env)
    log = tmp_path / "worker.log"
    words = [*PREFECT, "worker", "start", "--pool", "retort"]
    with running(words, folder, env, log):
        until(lambda: outcome(folder) == "first", 240, log)
        share(folder, 0.25)
        until(lambda: outcome(folder) == "refused", 240, log)
        share(folder, 0.75)
        until(lambda: outcome(folder) == "promoted", 240, log)
    told = artifacts(env, "decision")
    assert any("demo: refused; version 1 is the champion" in text for text in told)
    assert any("✗ quality error: worse, 2 (2 to 2)" in text for text in told)


@pytest.mark.long
def test_a_run_is_cancelled_in_prefects_page_and_goes_on(
    lab: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, env = lab
    ours = yaml.safe_load((project.ROOT / "prefect.yaml").read_text())
    made = next(d for d in ours["deployments"] if d["name"] == "reproduce")
    (folder / "prefect.yaml").write_text(yaml.safe_dump({"name": "p", "deployments": [made]}))
    project.run(folder, *PREFECT, "work-pool", "create", "retort", "--type", "process", **env)
    project.run(folder, *PREFECT, "--no-prompt", "deploy", "--all", **env)
    log, states = tmp_path / "worker.log", folder / "work/.resume/demo/teach"
    start = [*PREFECT, "deployment", "run", "reproduce/reproduce"]
    steps = yaml.safe_load((folder / "params.yaml").read_text())["demo"]["teach"]["steps"]
    project.change(folder, "demo.teach.steps", 100_000)
    with running([*PREFECT, "worker", "start", "--pool", "retort"], folder, env, log):
        project.run(folder, *start, **env)
        until(lambda: list(states.glob("*/net/state.pt")), 120, log)
        (run,) = asked(env, "flow_runs")
        project.run(folder, *PREFECT, "flow-run", "cancel", run["id"], **env)
        until(lambda: not at_work(folder), 60, log)
        until(lambda: asked(env, "flow_runs")[0]["state_type"] == "CANCELLED", 60, log)
        assert not (folder / "work/demo/teach").exists()
        told = json.loads(artifacts(env, "stages")[-1])
        assert {"stage": "demo prepare", "state": "ran"} in told
        project.change(folder, "demo.teach.steps", steps)
        project.run(folder, *start, **env)
        ended = ("COMPLETED", "FAILED", "CRASHED")
        until(lambda: any(r["state_type"] in ended for r in asked(env, "flow_runs")), 120, log)
    assert {r["state_type"] for r in asked(env, "flow_runs")} == {"CANCELLED", "COMPLETED"}
    assert {row["state"] for row in json.loads(artifacts(env, "stages")[-1])} <= {"ran", "cached"}
    assert project.run(folder, "dvc", "status", "pipelines/demo/dvc.yaml").stdout.startswith("Data")


def at_work(folder: Path) -> list[psutil.Process]:
    """DVC and stages that run there."""
    every = [p for p in psutil.process_iter(["cmdline", "cwd"]) if p.info["cwd"] == str(folder)]
    return [p for p in every if {"dvc", "stages"} & {*(p.info["cmdline"] or [])}]


def asked(env: dict[str, str], what: str) -> list[dict[str, Any]]:
    """All that Prefect's server has of a kind, the oldest first."""
    request = urllib.request.Request(
        f"{env['PREFECT_API_URL']}/{what}/filter", b"{}", {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return sorted(json.load(answer), key=lambda own: str(own["created"]))


def artifacts(env: dict[str, str], key: str) -> list[str]:
    return [a["data"] for a in asked(env, "artifacts") if a["key"] == key]


def test_every_paper_is_deployed() -> None:
    from stages.core import dag

    ours = yaml.safe_load((project.ROOT / "prefect.yaml").read_text())
    papers = [p for p in dag.papers(project.ROOT) if not p.startswith("foundations/")]
    found = {d["name"]: d for d in ours["deployments"] if d["name"] != "reproduce"}
    assert sorted(found) == papers
    for paper, made in found.items():
        assert made["schedules"] and made["parameters"]["paper"] == paper
        file, _, flow = made["entrypoint"].partition(":")
        assert f"def {flow}(" in (project.ROOT / file).read_text()
        assert (project.ROOT / f"pipelines/{paper}/retrain.yaml").is_file()
