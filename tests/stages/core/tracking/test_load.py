"""Many writers at once on SQLite, and a server that is killed while it is written to."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from stages.core.tracking import sender
from stages.core.tracking.address import why_away
from stages.core.tracking.track import track
from tests.stages.core.tracking import told
from tests.stages.core.tracking.told import POINTS, WRITERS, history, opened, runs, until
from tests.test_remotes import free_port

EACH = 100
"""Points before and after the kill: longer curves are thinned on purpose."""
pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def port(project: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of the server that `MLFLOW_TRACKING_URI` names."""
    number = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{number}")
    return number


@pytest.fixture
def server(project: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    started = up(project, port)
    yield started
    end(started)


def up(project: Path, port: int) -> subprocess.Popen[bytes]:
    started = told.server(project, port)
    until(lambda: why_away(f"http://127.0.0.1:{port}") is None, 120)
    return started


def end(server: subprocess.Popen[bytes]) -> None:
    """`kill -9` of the server and its workers."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.mark.parametrize("through", ["file", "server"])
def test_writers_at_once_lose_nothing(
    through: str,
    project: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if through == "server":
        request.getfixturevalue("server")
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    made = client.create_experiment("load")
    told.write_at_once(made, {})
    found = client.search_runs([made])
    assert len(found) == WRITERS
    for run in found:
        points = client.get_metric_history(run.info.run_id, "loss")
        assert sorted((p.step, p.value) for p in points) == [(n, n / 7) for n in range(POINTS)]


def test_a_server_killed_while_a_stage_reports_loses_nothing(
    project: Path, port: int, server: subprocess.Popen[bytes]
) -> None:
    tracker = opened(project)
    sender.ensure_sender(project)
    for step in range(EACH):
        tracker.metric("loss", step / 7, step=step)
    until(lambda: "prune@random-0-1" in runs(project), 60)
    end(server)
    for step in range(EACH, 2 * EACH):
        tracker.metric("loss", step / 7, step=step)
    tracker.close("FINISHED")
    until(lambda: sender.away(project) is not None, 60)
    again = up(project, port)
    try:
        (project / "params.yaml").write_text("common: {}\n")
        assert track(project, Console()) == 0
        run = runs(project)["prune@random-0-1"]
        assert sorted(history(project, run, "loss")) == [(n, n / 7) for n in range(2 * EACH)]
        assert run.info.status == "FINISHED"
    finally:
        end(again)
