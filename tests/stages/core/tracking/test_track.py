"""`python -m stages track` on a project that DVC has run, and on one whose results it restored."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from stages.core import dag
from stages.core.tracking import sender
from stages.core.tracking.locks import is_held
from stages.core.tracking.mlflow_sink import MlflowSink
from stages.core.tracking.spool import home
from stages.core.tracking.track import track
from tests import project

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def tracked(folder: Path) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    assert track(folder, console) == 0
    return console.export_text()


def recorded(folder: Path) -> dict[str, Any]:
    """Runs without a parent, by name; each must be there once."""
    sink = MlflowSink(folder)
    found = sink.client.search_runs([sink._experiment("demo")])
    top = [r for r in found if "mlflow.parentRunId" not in r.data.tags]
    assert len({r.info.run_name for r in top}) == len(top)
    return {r.info.run_name: r for r in top}


def test_track_completes_what_stages_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project.make(tmp_path / "p")
    project.repro(folder, RETORT_TRACKING="on")
    try:
        said = project.run(folder, sys.executable, "-m", "stages", "track").stdout
        assert "in mlflow.db" in said and "written" in said
        runs = recorded(folder)
        lock = yaml.safe_load((folder / "pipelines/demo/dvc.lock").read_text())["stages"]
        assert set(runs) == set(lock)
        for name, run in runs.items():
            assert run.info.status == "FINISHED" and "retort.restored" not in run.data.tags
            assert run.data.tags["retort.dvc_stage"] == f"pipelines/demo/dvc.yaml:{name}"
            for out in lock[name]["outs"]:
                assert run.data.tags[f"dvc.out.{out['path']}"] == out["md5"]
            assert run.data.params["common.threads"] == "1"
        used = {i.dataset.name: i.dataset.digest for i in runs["teach"].inputs.dataset_inputs}
        assert used == {"work/demo/prepare": runs["prepare"].data.tags["retort.key"]}

        assert "0 runs sent, 0 written from results that are here, 0 given" in tracked(folder)
        assert {n: r.info.run_id for n, r in recorded(folder).items()} == {
            n: r.info.run_id for n, r in runs.items()
        }

        # Results without runs, as after `dvc pull`: they are written, and marked.
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///second.db")
        monkeypatch.setitem(project.ENV, "MLFLOW_TRACKING_URI", "sqlite:///second.db")
        assert f"{len(runs)} written from results" in tracked(folder)
        restored = recorded(folder)
        assert set(restored) == set(runs)
        for name, run in restored.items():
            assert run.data.tags["retort.restored"] == "true"
            for tag in ("key", "code", "data", "params", "environment", "version.torch"):
                assert run.data.tags[f"retort.{tag}"] == runs[name].data.tags[f"retort.{tag}"]
            assert run.data.params == runs[name].data.params
            hashes = {k for k in runs[name].data.tags if k.startswith("dvc.out.")}
            assert hashes <= set(run.data.tags)
        assert "0 runs sent, 0 written from results that are here, 0 given" in tracked(folder)

        # A stage that was executed again replaces the restored run.
        node = dag.node(folder, "demo", "teach")
        shutil.rmtree(folder / node.folder)
        words = ["-m", "stages", "teach", "demo"]
        project.run(folder, sys.executable, *words, RETORT_TRACKING="on")
        tracked(folder)
        assert "retort.restored" not in recorded(folder)["teach"].data.tags
    finally:
        sender.quiesce(folder)
        assert not is_held(home(folder) / "lock")
