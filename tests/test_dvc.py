"""What DVC promises its users: what runs, what does not, and what a clone finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests import project

pytestmark = pytest.mark.slow
DEMO = "pipelines/demo/dvc.yaml"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo project, run once, committed, its outputs pushed to a folder."""
    folder = project.make(tmp_path_factory.mktemp("built") / "p", git=True)
    project.repro(folder)
    remote = folder.parent / "remote"
    project.run(folder, "dvc", "remote", "add", "-d", "store", str(remote))
    project.run(folder, "git", "add", "-A")
    project.run(folder, "git", "commit", "-qm", "results")
    project.run(folder, "dvc", "push", "-q")
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A clone of it with other file times, its outputs pulled."""
    project.run(tmp_path, "git", "clone", "-q", str(built), "clone")
    clone = tmp_path / "clone"
    for path in clone.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            os.utime(path, (1, 1))
    project.run(clone, sys.executable, "-m", "stages", "fingerprint")
    project.run(clone, "dvc", "pull", "-q")
    return clone


def scores(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "work/demo/evaluate/scores.parquet")


def door(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages", *words], cwd=folder,
        # Compiled files are Python's doing; what a refused command writes is what counts.
        env={**project.ENV, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_clone_with_other_file_times_is_a_no_op(folder: Path) -> None:
    assert project.ran(project.repro(folder)) == []


def test_a_new_variant_runs_alone(folder: Path) -> None:
    project.change(folder, "demo.prune.variants.third", {"by": "size"})
    assert project.ran(project.repro(folder)) == ["prune@third-0-1", "evaluate"]
    assert set(scores(folder)["variant"]) == {"first", "second", "third"}


def test_a_renamed_variant_leaves_nothing_of_its_old_self(folder: Path) -> None:
    project.change(folder, "demo.prune.variants.second", None)
    project.change(folder, "demo.prune.variants.renamed", {"by": "order"})
    ran = project.ran(project.repro(folder))
    assert "prune@first-0-1" not in ran and "evaluate" in ran
    assert set(scores(folder)["variant"]) == {"first", "renamed"}
    assert not (folder / "work/demo/prune/second").exists()


def test_a_removed_variant_leaves_the_scores(folder: Path) -> None:
    project.change(folder, "demo.prune.variants.second", None)
    assert project.ran(project.repro(folder)) == ["evaluate"]
    assert set(scores(folder)["variant"]) == {"first"}


def test_a_new_seed_range_runs_alone(folder: Path) -> None:
    project.change(folder, "demo.prune.seeds", ["0-1", "2"])
    ran = project.ran(project.repro(folder))
    assert sorted(ran) == ["evaluate", "prune@first-2", "prune@second-2"]
    assert set(scores(folder)["seed"]) == {0, 1, 2}


def test_an_edited_helper_runs_what_imports_it(folder: Path) -> None:
    path = folder / "stages/teach/loop.py"
    path.write_text(path.read_text() + "\n# a remark\n")
    # What stands on teach runs too: an output names the code that its inputs came from.
    ran = project.ran(project.repro(folder))
    assert ran[0] == "teach" and ran[-1] == "evaluate" and "prepare" not in ran


def test_two_runs_elsewhere_agree_byte_for_byte(built: Path, tmp_path: Path) -> None:
    other = project.make(tmp_path / "elsewhere/deeper")
    project.repro(other, PYTHONHASHSEED="4242")
    assert project.outputs(other) == project.outputs(built)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["teach", "nobody"], ["unknown paper 'nobody'", "allowed: demo"]),
        (["distill", "demo"], ["unknown stage 'distill'", "prepare, teach, prune, evaluate"]),
        (["prune", "demo"], ["needs --variant"]),
        (["prune", "demo", "--variant", "x", "--seeds", "0-1"], ["unknown variant 'x'", "first"]),
        (["prune", "demo", "--variant", "first", "--seeds", "7"], ["no seeds '7'", "0-1"]),
        (["prune", "demo", "--variant", "first", "--seeds", "2-1"], ["seeds '2-1'"]),
        (["teach", "demo", "--variant", "first"], ["takes no --variant"]),
    ],
)
def test_wrong_names_exit_with_2(folder: Path, words: list[str], parts: list[str]) -> None:
    before = project.run(folder, "git", "status", "--porcelain", "--ignored").stdout
    done = door(folder, *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert project.run(folder, "git", "status", "--porcelain", "--ignored").stdout == before


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("demo.teach.stps", 3, ["unknown key 'demo.teach.stps'", "steps, pause"]),
        ("demo.teach.steps", "3", ["'demo.teach.steps' is '3'", "integer"]),
        ("common.threads", 0, ["'common.threads' is 0", "greater than or equal to 1"]),
        ("common.device", "tpu", ["'common.device' is 'tpu'", "'auto', 'cpu' or 'cuda'"]),
        ("demo.prune.seeds", [0, 1], ["demo.prune.seeds is [0, 1]", '["0-2"]']),
        ("demo.prune.seeds", "0-2", ["demo.prune.seeds is '0-2'", "a list of texts"]),
        ("demo.prune.seeds", [], ["demo.prune.seeds is []", "a list of texts"]),
        ("demo.prune.variants", 3, ["demo.prune.variants is 3", "a mapping"]),
    ],
)
def test_wrong_parameters_exit_with_2_and_write_nothing(
    folder: Path, path: str, value: object, parts: list[str]
) -> None:
    project.change(folder, path, value)
    files = sorted(p.as_posix() for p in (folder / "work").rglob("*"))
    done = door(folder, "teach", "demo")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(part in done.stderr for part in ["params.yaml", *parts]), done.stderr
    assert sorted(p.as_posix() for p in (folder / "work").rglob("*")) == files


def test_a_missing_input_exits_with_2(folder: Path) -> None:
    project.shutil.rmtree(folder / "work/demo/prepare")
    files = sorted(p.as_posix() for p in (folder / "work").rglob("*"))
    done = door(folder, "teach", "demo")
    assert done.returncode == 2 and "missing input: work/demo/prepare" in done.stderr
    assert sorted(p.as_posix() for p in (folder / "work").rglob("*")) == files


def test_a_fault_of_the_code_names_the_log_and_leaves_the_old_output(folder: Path) -> None:
    path = folder / "pipelines/demo/evaluate.py"
    path.write_text(path.read_text().replace("rows = []", "rows = []\n    1 / 0"))
    before = (folder / "work/demo/evaluate/scores.parquet").read_bytes()
    done = door(folder, "evaluate", "demo")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "ZeroDivisionError" in done.stderr and "work/.logs/demo/evaluate.log" in done.stderr
    assert "Traceback" in (folder / "work/.logs/demo/evaluate.log").read_text()
    assert (folder / "work/demo/evaluate/scores.parquet").read_bytes() == before


BENCH_STAGE = """
  bench:
    cmd: python -m stages bench demo
    wdir: ../..
    deps: [pipelines/demo/bench.py, work/environment.json, work/device.json, work/demo/teach]
    params:
      - params.yaml: [common.device, common.threads, demo.bench]
    outs:
      - work/demo/bench: {persist: true}
"""
BENCH_CODE = """
import time

from stages.core import params as core
from stages.core.files import write_json


class Params(core.Params):
    repeats: int


def run(params, inputs, out, job):
    write_json(out / "time.json", time.time_ns())
"""


def test_a_bench_runs_again_where_others_come_from_the_run_cache(folder: Path) -> None:
    with (folder / "pipelines/demo/dvc.yaml").open("a") as file:
        file.write(BENCH_STAGE)
    (folder / "pipelines/demo/bench.py").write_text(BENCH_CODE)
    project.change(folder, "demo.bench", {"repeats": 1})
    assert project.ran(project.repro(folder)) == ["bench"]
    assert project.ran(project.repro(folder)) == []
    steps = yaml.safe_load((folder / "params.yaml").read_text())["demo"]["teach"]["steps"]
    times = []
    for run in range(3):
        project.change(folder, "demo.teach.steps", steps + 1 + run % 2)
        ran = project.ran(project.repro(folder))
        times.append((folder / "work/demo/bench/time.json").read_text())
        assert "bench" in ran and ("teach" in ran) == (run < 2), ran
    # At last all inputs are as in the first run: DVC has each result, and must not use this one.
    assert ran == ["bench"] and len(set(times)) == 3


def test_a_slip_in_an_import_is_no_missing_package(folder: Path) -> None:
    path = folder / "pipelines/demo/evaluate.py"
    path.write_text("from stages.core.files import no_such_name\n" + path.read_text())
    done = door(folder, "evaluate", "demo")
    assert done.returncode == 1 and "no_such_name" in done.stderr
    assert "Traceback" in (folder / "work/.logs/demo/evaluate.log").read_text()
    path.write_text("import no_such_package\n")
    done = door(folder, "evaluate", "demo")
    assert done.returncode == 2 and "a package is missing" in done.stderr


def test_what_dvc_shows_is_of_use(folder: Path) -> None:
    assert "evaluate" in project.run(folder, "dvc", "dag").stdout
    project.change(folder, "demo.teach.steps", 60)
    diff = project.run(folder, "dvc", "params", "diff").stdout
    assert "demo.teach.steps" in diff and "120" in diff and "60" in diff
    project.change(folder, "demo.teach.steps", 120)
    me = {
        f"GIT_{who}_{what}": "nobody"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    project.run(folder, "dvc", "exp", "run", "-q", "-S", "demo.teach.steps=60", DEMO, **me)
    table = project.run(folder, "dvc", "exp", "show", "--only-changed", "--csv").stdout.splitlines()
    column = next(i for i, name in enumerate(table[0].split(",")) if "demo.teach.steps" in name)
    assert {row.split(",")[column] for row in table[1:]} == {"120", "60"}
    assert "flowchart" in project.run(folder, "dvc", "dag", "--md").stdout
    numbers = project.run(folder, "dvc", "metrics", "show").stdout
    assert "work/demo/evaluate/metrics.json" in numbers
    plots = project.run(folder, "dvc", "plots", "show", "-o", "plots").stdout
    assert "plots/index.html" in plots
    assert "teach_curve_csv" in (folder / "plots/index.html").read_text()
