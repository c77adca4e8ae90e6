"""`make repro`: the plan before, the board after, and a paper that cannot run in between."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests import project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two papers, of which the first by name lacks its data."""
    made = project.make(tmp_path_factory.mktemp("repro") / "p")
    prepare = another(made, "broken") / "prepare.py"
    prepare.write_text(
        prepare.read_text().replace(
            "    write_json",
            '    raise UserError("no data in data/x; put it there")\n    write_json',
        )
        + "\nfrom stages.core.errors import UserError\n"
    )
    return made


def another(made: Path, name: str) -> Path:
    """Give the project a second paper, a copy of its first; gives the paper's folder."""
    paper = made / "pipelines" / name
    shutil.copytree(made / "pipelines/demo", paper)
    (paper / "dvc.yaml").write_text((paper / "dvc.yaml").read_text().replace("demo", name))
    for path in paper.glob("*.py"):
        path.write_text(path.read_text().replace("pipelines.demo", f"pipelines.{name}"))
    values = yaml.safe_load((made / "params.yaml").read_text())
    values[name] = values["demo"]
    (made / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return paper


def repro(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages", "repro", *words],
        cwd=folder,
        env=project.ENV,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_paper_that_cannot_run_does_not_stop_the_others(folder: Path) -> None:
    done = repro(folder)
    assert done.returncode == 1, done.stderr
    assert "and 10 that never ran here" in done.stdout
    assert "disk: about" in done.stdout
    assert (folder / "work/demo/evaluate/scores.parquet").is_file()
    assert "no data in data/x; put it there" in done.stdout.split("not complete:")[1]
    assert "broken: still to run: prepare, teach" in done.stdout
    assert "demo: still to run" not in done.stdout
    assert "report: reports/index.html" in done.stdout


def test_one_paper_alone_succeeds_and_then_has_nothing_to_do(folder: Path) -> None:
    repro(folder, "--paper", "demo")
    start = time.monotonic()
    done = repro(folder, "--paper", "demo")
    assert done.returncode == 0, done.stderr
    assert "nothing has changed; nothing to run" in done.stdout
    assert time.monotonic() - start < 60, "a no-op must not hang"


def test_the_plan_names_what_stands_on_a_change_and_takes_times_from_receipts(
    folder: Path,
) -> None:
    repro(folder, "--paper", "demo")
    project.change(folder, "demo.prune.share", 0.25)
    plan = repro(folder, "--paper", "demo").stdout.split("disk:")[0]
    assert "3 stages: prune@first-0-1, prune@second-0-1, evaluate" in plan
    assert "never ran" not in plan


def test_an_unknown_paper_is_a_clear_error(folder: Path) -> None:
    done = repro(folder, "--paper", "nobody")
    assert done.returncode == 2
    assert "unknown paper 'nobody'; allowed: broken, demo" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_stage_and_leaves_no_orphan(tmp_path: Path, number: int) -> None:
    made = project.make(tmp_path / "p")
    another(made, "later")
    process = subprocess.Popen(
        [sys.executable, "-m", "stages", "repro"], cwd=made, env=project.ENV,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not (states := list((made / "work/.resume").glob("*/teach/*/net/state.pt"))):
        time.sleep(0.01)
    first = states[0].relative_to(made / "work/.resume").parts[0]
    second = {"demo": "later", "later": "demo"}[first]
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "continues from the last checkpoint" in errors
    _, alive = psutil.wait_procs(below, timeout=5)
    assert not alive
    assert not (made / "work" / first / "teach").exists()
    assert not (made / "work" / second).exists(), "DVC must not go on to the next paper"
    assert repro(made, "--paper", first).returncode == 0


def test_data_that_cannot_be_fetched_is_said_and_stops_nothing(folder: Path) -> None:
    lock = {"packages": {"no-such-package": {
        "index": "debian", "version": "1", "sha256": "0" * 64, "bytes": 1, "licence": "none",
        "author": "nobody", "attribution": "nobody", "take": ["x"], "papers": ["demo"],
        "voice": {"id": "x", "speaker": "x", "language": "x"},
    }}}  # fmt: skip
    (folder / "data.lock").write_text(yaml.safe_dump(lock))
    done = subprocess.run(
        [sys.executable, "-m", "stages", "fetch"], cwd=folder, capture_output=True, text=True,
        env={**project.ENV, "PATH": str(Path(sys.executable).parent)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "data not fetched, going on without" in done.stderr and "`source:`" in done.stderr
