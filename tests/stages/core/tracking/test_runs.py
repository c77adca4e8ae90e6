"""What a stage says reaches MLflow once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from stages.core.tracking.address import relocate
from stages.core.tracking.mlflow_sink import MlflowSink
from stages.core.tracking.spool import home, key_of
from tests.stages.core.tracking.told import (
    CODE,
    artifacts,
    drained,
    history,
    onnx_file,
    opened,
    outputs,
    runs,
)


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


def test_a_network_learned_block_by_block_has_a_curve_for_each(project: Path) -> None:
    folder = outputs(project / "out")
    (folder / "W4A4/seed0").mkdir(parents=True)
    lines = ["block,epoch,loss", "blocks.0,1,2.5", "blocks.0,2,1.5", "blocks.1,1,0.5"]
    (folder / "W4A4/seed0/curve.csv").write_text("\n".join(lines) + "\n")
    tracker = opened(project)
    tracker.results(folder, under="made")
    tracker.close("FINISHED")
    assert tracker.error is None
    drained(project)
    run = runs(project)["prune@random-0-1 seed 0"]
    assert history(project, run, "W4A4/blocks.0/loss") == [(1, 2.5), (2, 1.5)]
    assert history(project, run, "W4A4/blocks.1/loss") == [(1, 0.5)]


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
        "import os, signal, sys; from pathlib import Path; from tests.stages.core.tracking import "
        "told as t; k = t.opened(Path(sys.argv[1]));\n"
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
