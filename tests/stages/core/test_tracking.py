"""Tracking: what a stage says reaches MLflow once, and no server can hold a stage up."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stages.core.tracking import sender
from stages.core.tracking.address import relocate, server_name, tracking_uri, why_away
from stages.core.tracking.drain import Drain, ServerAway
from stages.core.tracking.locks import is_held
from stages.core.tracking.mlflow_sink import MlflowSink
from stages.core.tracking.spool import DENSE, NullTracker, Tracker, home, key_of
from stages.core.tracking.track import track

CODE = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes MLflow a second."""
    root = tmp_path_factory.mktemp("database")
    MlflowSink(root).client.search_experiments()
    return root / "mlflow.db"


@pytest.fixture
def project(tmp_path: Path, database: Path) -> Iterator[Path]:
    """A project's root; no sender outlives the test."""
    shutil.copy(database, tmp_path)
    yield tmp_path
    sender.quiesce(tmp_path)
    assert not is_held(home(tmp_path) / "lock")
    os.close(sender._paused.pop(tmp_path))


def opened(root: Path, key: str = "k1", **more: Any) -> Tracker:
    given = {
        "paper": "sepprune",
        "stage": "prune",
        "variant": "random",
        "seeds": "0-1",
        "params": {"sepprune.prune.variants.random": {"steps": 3, "rates": [0.5, 1]}},
        "tags": {"commit": "abc", "dvc_stage": "pipelines/sepprune/dvc.yaml:prune", "code": "c0de"},
    }
    return Tracker.open(root, key=key, **{**given, **more})


def drained(root: Path) -> Drain:
    drain = Drain(root, lambda: MlflowSink(root))
    drain.empty()
    return drain


def runs(root: Path, key: str = "k1", paper: str = "sepprune") -> dict[str, Any]:
    """Runs of a key by name, as MLflow has them."""
    sink = MlflowSink(root)
    found, children = sink._search(sink._experiment(paper), key)
    return {run.info.run_name: run for run in [found, *children] if run}


def history(root: Path, run: Any, name: str) -> list[tuple[int, float]]:
    points = MlflowSink(root).client.get_metric_history(run.info.run_id, name)
    return [(p.step, p.value) for p in points]


def artifacts(root: Path, run: Any) -> set[str]:
    folder = Path(run.info.artifact_uri)
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def outputs(folder: Path) -> Path:
    (folder / "pictures").mkdir(parents=True)
    (folder / "sudormrf/seed0").mkdir(parents=True)
    (folder / "pictures/a.svg").write_text("<svg/>")
    (folder / "metrics.json").write_text('{"seen": {"si_sdri": 7.5}, "count": 2}')
    (folder / "sudormrf/seed0/curve.csv").write_text("step,valid_loss\n10,-5.5\n20,-6\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def onnx_file(path: Path) -> Path:
    from onnx import TensorProto, helper, save

    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8])

    graph = helper.make_graph(
        [helper.make_node("Identity", ["mix"], ["out"])], "g", [value("mix")], [value("out")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    save(model, path)
    return path


# The stage's side


def test_a_stage_imports_nothing_heavy_for_tracking() -> None:
    program = (
        "import sys; from stages.core.tracking import sender, spool;"
        "print([m for m in ('mlflow', 'torch', 'pandas', 'numpy', 'sqlite3', 'urllib.request',"
        " 'subprocess', 'rich') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=CODE, capture_output=True)
    assert answer.stdout.decode().strip() == "[]", answer


def test_tracking_never_raises_and_keeps_the_error(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file where a folder should be")
    tracker = opened(tmp_path)
    assert tracker.error and "work" in tracker.error
    for broken in (tracker, NullTracker()):
        broken.metric("loss", 1.0)
        broken.picture(tmp_path / "absent.svg")
        broken.model("dense", tmp_path / "absent.onnx")
        broken.dataset("speech", "d1", "voices")
        broken.results(tmp_path / "absent")
        broken.close("FINISHED")
    whole = opened(tmp_path / "project")
    whole.metric("loss", "no number")  # type: ignore[arg-type]
    assert whole.error and "no number" in whole.error
    whole.picture(tmp_path / "absent.svg")
    assert whole.error and "absent.svg" in whole.error
    whole.close("FINISHED")
    sender.ensure_sender(tmp_path)  # cannot write there, and says nothing


def test_long_curves_are_thinned_and_keep_their_last_point(tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    for step in range(10_000):
        tracker.metric("loss", step, step=step, seed=0)
    for step in range(DENSE):
        tracker.metric("short", step, step=step)
    tracker.close("FINISHED")
    lines = [json.loads(x) for x in (home(tmp_path) / "k1.jsonl").read_text().splitlines()]
    steps = [e["s"] for e in lines if e.get("n") == "loss"]
    assert steps[:DENSE] == list(range(DENSE)) and steps[-1] == 9_999
    assert len(steps) < 6.5 * DENSE and steps == sorted(set(steps))
    assert sum(e.get("n") == "short" for e in lines) == DENSE


# What MLflow holds afterwards


def test_a_stage_becomes_a_run_with_a_child_per_seed(project: Path) -> None:
    made = {"command": "c", "stage": "prepare", "code": "1"}
    (project / "work/sepprune/prepare").mkdir(parents=True)
    (project / "work/sepprune/prepare/provenance.json").write_text(json.dumps(made))
    tracker = opened(project, inputs=["work/sepprune/prepare"])
    for step in range(5):
        for seed in (0, 1):
            tracker.metric("sudormrf/valid_loss", -step - seed, step=step, seed=seed)
    tracker.metric("calls", 1.0)
    tracker.metric("calls", 2.0)
    tracker.dataset("speech", "f" * 64, "voices of a package")
    tracker.model("dense 1", onnx_file(project / "net.onnx"))
    tracker.results(outputs(project / "out"))
    shutil.rmtree(project / "out")  # what is sent later does not depend on the stage's folder
    (project / "net.onnx").unlink()
    tracker.close("FINISHED")
    assert tracker.error is None
    drain = drained(project)
    assert (drain.ended, drain.left_out) == (1, 0)
    assert not list(home(project).glob("k1*"))

    found = runs(project)
    parent = found["prune@random-0-1"]
    assert set(found) == {
        "prune@random-0-1",
        "prune@random-0-1 seed 0",
        "prune@random-0-1 seed 1",
    }
    assert {r.info.status for r in found.values()} == {"FINISHED"}
    assert parent.data.params == {
        "sepprune.prune.variants.random.steps": "3",
        "sepprune.prune.variants.random.rates": "[0.5, 1]",
    }
    assert parent.data.metrics == {"calls": 2.0, "seen/si_sdri": 7.5, "count": 2.0}
    assert history(project, parent, "calls") == [(0, 1.0), (1, 2.0)]
    child = found["prune@random-0-1 seed 1"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert history(project, child, "sudormrf/valid_loss") == [(s, -s - 1.0) for s in range(5)]
    for run in found.values():
        assert run.data.tags["retort.code"] == "c0de" and run.data.tags["retort.key"] == "k1"
    assert parent.data.tags["mlflow.source.git.commit"] == "abc"
    inputs = {i.dataset.name: i.dataset for i in parent.inputs.dataset_inputs}
    assert inputs["work/sepprune/prepare"].digest == key_of(made)
    assert json.loads(inputs["speech"].profile) == {"digest": "f" * 64}
    assert artifacts(project, parent) == {
        "metrics.json",
        "pictures/a.svg",
        "sudormrf/seed0/curve.csv",
    }
    assert Path(parent.info.artifact_uri).is_relative_to(project / "mlartifacts/sepprune")
    models = MlflowSink(project).client.search_logged_models([parent.info.experiment_id])
    assert [(m.name, m.source_run_id) for m in models] == [("dense_1", parent.info.run_id)]
    import mlflow

    loaded = mlflow.pyfunc.load_model(models[0].artifact_location)
    example = loaded.metadata.load_input_example(models[0].artifact_location)
    assert loaded.metadata.signature.inputs.input_names() == ["mix"]
    assert (loaded.predict(example)["out"] == example["mix"]).all()


def test_curves_of_a_restored_stage_come_from_its_files(project: Path) -> None:
    tracker = opened(project)
    tracker.results(outputs(project / "out"), under="made")
    tracker.close("FINISHED")
    drained(project)
    found = runs(project)
    curve = history(project, found["prune@random-0-1 seed 0"], "sudormrf/valid_loss")
    assert curve == [(10, -5.5), (20, -6.0)]
    assert "made/pictures/a.svg" in artifacts(project, found["prune@random-0-1"])


def test_a_spool_sent_twice_leaves_the_same_runs(project: Path) -> None:
    tracker = opened(project)
    for step in range(300):
        tracker.metric("loss", step, step=step, seed=0)
    tracker.model("dense", onnx_file(project / "net.onnx"))
    tracker.dataset("speech", "d", "voices")
    tracker.close("FINISHED")
    shutil.copytree(home(project), project / "kept")
    drained(project)
    before = runs(project)
    for cut in (None, 20):  # once more from the start, and from the middle of it
        shutil.copytree(project / "kept", home(project), dirs_exist_ok=True)
        if cut:
            lines = (home(project) / "k1.jsonl").read_bytes().splitlines(keepends=True)
            (home(project) / "k1.offset").write_text(str(len(b"".join(lines[:cut]))))
        drained(project)
        after = runs(project)
        assert {n: r.info.run_id for n, r in after.items()} == {
            n: r.info.run_id for n, r in before.items()
        }
        child = after["prune@random-0-1 seed 0"]
        steps = [s for s, _ in history(project, child, "loss")]
        assert len(steps) == len(set(steps)) and max(steps) == 299
        assert child.info.end_time == before["prune@random-0-1 seed 0"].info.end_time
        experiment = child.info.experiment_id
        assert len(MlflowSink(project).client.search_logged_models([experiment])) == 1
        assert len(after["prune@random-0-1"].inputs.dataset_inputs) == 1


def test_a_killed_stage_goes_on_in_its_run(project: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from tests.stages.core import "
        "test_tracking as t; k = t.opened(Path(sys.argv[1]));\n"
        "for s in range(6): k.metric('loss', s, step=s, seed=0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(project)], cwd=CODE, check=False)
    drained(project)
    first = runs(project)["prune@random-0-1"]
    assert first.info.status == "KILLED" and first.data.tags["retort.message"] == "killed"
    again = opened(project)
    for step in range(4, 9):  # from the last checkpoint
        again.metric("loss", step, step=step, seed=0)
    drained(project)
    assert runs(project)["prune@random-0-1"].info.status == "RUNNING"
    assert (home(project) / "k1.jsonl").exists(), "a living stage keeps its spool"
    again.close("FINISHED")
    drained(project)
    last = runs(project)
    assert last["prune@random-0-1"].info.run_id == first.info.run_id
    assert last["prune@random-0-1"].info.status == "FINISHED"
    assert "retort.message" not in last["prune@random-0-1"].data.tags
    child = last["prune@random-0-1 seed 0"]
    assert history(project, child, "loss") == [(s, float(s)) for s in range(9)]


def test_a_spool_of_two_attempts_may_be_sent_again_from_anywhere(project: Path) -> None:
    for attempt, status in enumerate(("FAILED", "FINISHED")):
        tracker = opened(project)
        for step in range(5 * attempt, 5 * attempt + 5):
            tracker.metric("loss", step, step=step)
        tracker.close(status, "" if attempt else "no memory")
    shutil.copytree(home(project), project / "kept")
    drained(project)
    before = runs(project)["prune@random-0-1"]
    lines = (project / "kept/k1.jsonl").read_bytes().splitlines(keepends=True)
    for cut in range(len(lines)):
        shutil.copytree(project / "kept", home(project), dirs_exist_ok=True)
        if cut:
            (home(project) / "k1.offset").write_text(str(len(b"".join(lines[:cut]))))
        drained(project)
        after = runs(project)["prune@random-0-1"]
        assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
        assert after.data.tags["retort.attempt"] == before.data.tags["retort.attempt"]
        assert history(project, after, "loss") == [(s, float(s)) for s in range(10)]


def test_a_stage_executed_again_replaces_its_run(project: Path) -> None:
    for value in (1.0, 2.0):  # a bench gives another time under the same key
        tracker = opened(project)
        tracker.metric("latency_ms", value, step=0)
        tracker.metric("loss", value, step=0, seed=0)
        tracker.close("FINISHED")
        drained(project)
    found = runs(project)
    assert len(found) == 2
    assert history(project, found["prune@random-0-1"], "latency_ms") == [(0, 2.0)]
    assert history(project, found["prune@random-0-1 seed 0"], "loss") == [(0, 2.0)]


def test_what_mlflow_refuses_is_left_out_alone(project: Path) -> None:
    tracker = opened(project)
    tracker.metric("a:b|c", float("nan"), step=0)
    tracker.picture(outputs(project / "out") / "pictures/a.svg")
    tracker.metric("fine", 1.0, step=0)
    shutil.rmtree(home(project) / "k1.files")
    with (home(project) / "k1.jsonl").open("a") as file:
        file.write('{"e": "metric", "n": "torn\n[1]\n')
    tracker.close("FAILED", "the loss is nan")
    assert drained(project).left_out == 1
    run = runs(project)["prune@random-0-1"]
    assert run.data.metrics["fine"] == 1.0 and "a:b_c" in run.data.metrics
    assert (run.info.status, run.data.tags["retort.message"]) == ("FAILED", "the loss is nan")


def test_a_moved_project_writes_into_its_own_folder(project: Path) -> None:
    opened(project).close("FINISHED")
    drained(project)
    copy = project / "moved/here"
    copy.mkdir(parents=True)
    shutil.copy(project / "mlflow.db", copy)
    relocate(copy)
    assert runs(copy)["prune@random-0-1"].info.artifact_uri.startswith(str(copy / "mlartifacts"))
    tracker = opened(copy, key="k2")
    tracker.picture(outputs(project / "out") / "pictures/a.svg")
    tracker.close("FINISHED")
    drained(copy)
    assert list((copy / "mlartifacts").rglob("a.svg"))
    assert not list((project / "mlartifacts").rglob("a.svg"))


# The sender


def started(root: Path, more: str = "pass") -> subprocess.Popen[bytes]:
    """A sender as a child of the test."""
    program = (
        "import sys; from pathlib import Path; from stages.core.tracking import sender;"
        f"{more}; sender.main(Path(sys.argv[1]))"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(root)], cwd=CODE)


def until(happens: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_curves_are_live_and_the_sender_ends_by_itself(project: Path) -> None:
    tracker = opened(project)
    tracker.metric("loss", 1.0, step=0)
    process = started(project, "sender.IDLE = 1.0")
    second = started(project, "sender.IDLE = 1.0")
    try:
        until(lambda: "prune@random-0-1" in runs(project))
        begin = time.monotonic()
        tracker.metric("loss", 2.0, step=1)
        run = runs(project)["prune@random-0-1"]
        until(lambda: len(history(project, run, "loss")) == 2)
        assert time.monotonic() - begin < 5
        assert runs(project)["prune@random-0-1"].info.status == "RUNNING"
        tracker.close("FINISHED")
        assert process.wait(30) == 0 and second.wait(30) == 0
    finally:
        process.kill()
        second.kill()
    assert runs(project)["prune@random-0-1"].info.status == "FINISHED"
    assert not list(home(project).glob("*.jsonl"))


@pytest.mark.slow
def test_a_sender_killed_at_any_moment_doubles_nothing(project: Path) -> None:
    tracker = opened(project)
    for step in range(DENSE):
        for name in range(40):
            tracker.metric(f"m{name}", step, step=step, seed=name % 2)
    tracker.close("FINISHED")
    spool, mark = home(project) / "k1.jsonl", home(project) / "k1.offset"
    lines = spool.read_bytes().count(b"\n")
    killed = 0
    for moment in (0.0, 0.05, 0.1):
        before = mark.read_text() if mark.is_file() else ""
        process = started(project, "from stages.core.tracking import drain; drain.CHUNK = 32768")
        until(lambda b=before: not spool.exists() or (mark.is_file() and mark.read_text() != b))
        time.sleep(moment)
        process.kill()
        process.wait()
        killed += spool.exists()
    assert killed >= 2, f"the sender was done with {lines} lines before it could be killed"
    drained(project)
    found = runs(project)
    assert found["prune@random-0-1"].info.status == "FINISHED"
    for name in range(40):
        child = found[f"prune@random-0-1 seed {name % 2}"]
        assert [s for s, _ in history(project, child, f"m{name}")] == list(range(DENSE))


def test_a_bench_has_the_machine_alone(project: Path) -> None:
    tracker = opened(project)
    sender.ensure_sender(project)
    until(lambda: is_held(home(project) / "lock"))
    sender.quiesce(project)
    assert not is_held(home(project) / "lock")
    sender.ensure_sender(project)
    late = started(project)
    assert late.wait(20) == 0, "a sender that starts meanwhile goes away again"
    assert not is_held(home(project) / "lock")
    tracker.metric("latency_ms", 3.0)
    tracker.close("FINISHED")
    sender.resume(project)
    until(lambda: not (home(project) / "k1.jsonl").exists())
    assert runs(project)["prune@random-0-1"].data.metrics == {"latency_ms": 3.0}


def test_a_sender_leaves_when_the_project_is_gone(tmp_path: Path) -> None:
    tracker = opened(tmp_path / "gone")
    process = started(tmp_path / "gone", "sender.IDLE = 60")
    try:
        until(lambda: is_held(home(tmp_path / "gone") / "lock"))
        shutil.rmtree(tmp_path / "gone")
        process.wait(20)
    finally:
        process.kill()
        process.wait()
    tracker.close("FINISHED")
    assert not (tmp_path / "gone").exists()


# A server that is away


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
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{project}/mlflow.db"]
    words += ["--artifacts-destination", str(project / "served")]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (project / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words], env=environment, stdout=log, stderr=log
        )
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


# `track`


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
