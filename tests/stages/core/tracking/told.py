"""What a stage says, and what MLflow then holds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.core.tracking.drain import Drain
from stages.core.tracking.mlflow_sink import MlflowSink
from stages.core.tracking.spool import Tracker

CODE = Path(__file__).parents[4]
WRITERS, POINTS = 8, 300
WRITER = """
import sys
from mlflow.tracking import MlflowClient
client = MlflowClient()
run = client.create_run(sys.argv[1], run_name=sys.argv[2]).info.run_id
print("ready", flush=True)
sys.stdin.readline()
for step in range(int(sys.argv[3])):
    client.log_metric(run, "loss", step / 7, step=step)
"""


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


def write_at_once(experiment: str, env: Mapping[str, str]) -> None:
    """Have WRITERS processes log POINTS metrics each at the same time; none may fail."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, experiment, f"w{number}", str(POINTS)],
            env={**os.environ, **env, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(WRITERS)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
    begun = time.monotonic()
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, said = writer.communicate(timeout=600)
        assert writer.returncode == 0 and "rror" not in said, said
    print(f"{WRITERS} x {POINTS} metrics in {time.monotonic() - begun:.1f} s")


def server(root: Path, port: int) -> subprocess.Popen[bytes]:
    """MLflow's own server on the project's SQLite database."""
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db"]
    words += ["--artifacts-destination", str(root / "served")]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (root / "server.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def until(happens: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
