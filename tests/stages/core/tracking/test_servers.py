"""No server can hold a stage up: away, mute, real; and what `track` makes good."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from stages.core.tracking import sender
from stages.core.tracking.address import server_name, tracking_uri, why_away
from stages.core.tracking.drain import Drain, ServerAway
from stages.core.tracking.mlflow_sink import MlflowSink
from stages.core.tracking.spool import home, key_of
from stages.core.tracking.track import track
from tests.stages.core.tracking import told
from tests.stages.core.tracking.told import (
    artifacts,
    drained,
    history,
    onnx_file,
    opened,
    outputs,
    runs,
    until,
)
from tests.test_remotes import free_port


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def mute() -> Iterator[str]:
    """A server that takes a connection and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["nobody", "mute"])
def test_a_server_that_is_away_costs_a_stage_nothing(
    kind: str, project: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = request.getfixturevalue(kind)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    begin = time.monotonic()
    tracker = opened(project)
    sender.ensure_sender(project)
    for step in range(100):
        tracker.metric("loss", step, step=step)
    tracker.results(outputs(project / "out"))
    tracker.close("FINISHED")
    assert time.monotonic() - begin < 1.0 and tracker.error is None
    until(lambda: sender.away(project) is not None)
    line = sender.away(project)
    assert line and "1 runs kept for `python -m stages track`" in line and "secret" not in line
    console = Console(record=True, width=200)
    begin = time.monotonic()
    (project / "params.yaml").write_text("common: {}\n")
    assert track(project, console) == 1
    assert time.monotonic() - begin < 15
    said = console.export_text()
    assert "server away (http://127.0.0.1" in said and "1 runs kept" in said
    assert "secret" not in said
    # Nothing is lost: with the server back (here, another one), the run arrives whole.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert track(project, console) == 0
    assert sender.away(project) is None
    assert len(history(project, runs(project)["prune@random-0-1"], "loss")) == 100


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert server_name(tmp_path) == "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db.lab:5433/runs?x=y")
    assert server_name(tmp_path) == "postgresql://db.lab:5433/runs"
    assert why_away("sqlite:///a.db") is None
    assert why_away("postgresql://me@127.0.0.1:1/runs")


@pytest.mark.slow
def test_a_real_server(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    server = told.server(project, port)
    try:
        until(lambda: why_away(uri) is None, 120)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        tracker = opened(project)
        tracker.metric("loss", 1.0, step=0, seed=0)
        tracker.model("dense", onnx_file(project / "net.onnx"))
        tracker.results(outputs(project / "out"))
        tracker.close("FINISHED")
        drained(project)
        found = runs(project)
        assert found["prune@random-0-1"].data.metrics["seen/si_sdri"] == 7.5
        assert len(history(project, found["prune@random-0-1 seed 0"], "loss")) == 1
        assert list((project / "served").rglob("a.svg")) and list(
            (project / "served").rglob("MLmodel")
        )
        assert not (project / "mlartifacts").exists()
        # It goes away in the middle of a run: the rest stays in the spool.
        tracker = opened(project, key="k2")
        drain = Drain(project, lambda: MlflowSink(project))
        drain.step()
        server.terminate()
        server.wait(30)
        tracker.metric("loss", 1.0, step=0)
        tracker.close("FINISHED")
        with pytest.raises(ServerAway):
            drain.empty()
        assert (home(project) / "k2.jsonl").is_file()
        # The same database without a server in front takes what was kept.
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        drained(project)
        assert runs(project, "k2")["prune@random-0-1"].data.metrics == {"loss": 1.0}
    finally:
        server.kill()
        server.wait()


DAG = """
stages:
  prepare:
    cmd: python -m stages prepare demo
    wdir: ../..
    outs: [work/demo/prepare]
  teach:
    cmd: python -m stages teach demo
    wdir: ../..
    deps: [work/demo/prepare]
    outs: [work/demo/teach]
  page:
    cmd: python -m stages page demo
    wdir: ../..
    deps: [work/demo/teach]
    outs: [reports/papers/demo.html, reports/papers/demo]
"""


def test_track_writes_runs_from_results(project: Path) -> None:
    identity = {"paper": "demo", "variant": None, "seeds": None}
    identity |= {"code": "c", "data": "d", "params": "p", "environment": "e"}
    prepared = {**identity, "stage": "prepare", "command": "python -m stages prepare demo"}
    page = {**identity, "stage": "page", "key": "pagekey", "commit": "abc", "dirty": False}
    files = {
        "params.yaml": "demo: {prepare: {rate: 8000}}\n",
        "pipelines/demo/dvc.yaml": DAG,
        "work/demo/prepare/provenance.json": json.dumps(prepared),
        "work/demo/prepare/metrics.json": '{"clips": 3}',
        "receipts/demo/page.json": json.dumps(page),
        "reports/papers/demo.html": "<h1>demo</h1>",
        "reports/papers/demo/a.svg": "<svg/>",
    }
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    size = sum(len(text) for name, text in files.items() if name.startswith("work/demo/prepare"))
    rate = {"params.yaml": {"demo.prepare": {"rate": 8000}}}
    made = {"path": "work/demo/prepare", "md5": "aaa.dir", "size": size}
    other = {"path": "reports/papers/demo.html", "md5": "bbb", "size": 1}
    lock = {
        "prepare": {"params": rate, "outs": [made]},
        "teach": {"outs": [{"path": "work/demo/teach", "md5": "ccc.dir", "size": 1}]},
        "page": {"outs": [other]},
    }
    (project / "pipelines/demo/dvc.lock").write_text(json.dumps({"stages": lock}))
    console = Console(record=True, width=200)
    assert track(project, console) == 0
    assert "0 runs sent, 2 written from results" in console.export_text()
    run = runs(project, key_of(prepared), "demo")["prepare"]
    assert run.data.params == {"demo.prepare.rate": "8000"} and run.data.metrics == {"clips": 3}
    assert run.data.tags["dvc.out.work/demo/prepare"] == "aaa.dir"
    assert run.data.tags["retort.restored"] == "true" and run.info.status == "FINISHED"
    shown = runs(project, "pagekey", "demo")["page"]
    assert artifacts(project, shown) == {"demo.html", "demo/a.svg"}
    assert shown.data.tags["retort.commit"] == "abc"
    # What lies here is not what DVC hashed: no hash is claimed for it.
    assert "dvc.out.reports/papers/demo.html" not in shown.data.tags
    assert track(project, console) == 0
    assert "0 runs sent, 0 written from results that are here, 0 given" in console.export_text()
