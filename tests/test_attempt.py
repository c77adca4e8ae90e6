"""One stage through DVC: how each kind of end is told, and that no process is left behind."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest

from stages.core.attempt import Outcome, attempt
from stages.core.forked import is_dvc
from tests import project

pytestmark = pytest.mark.slow
PREPARE, TEACH = (f"pipelines/demo/dvc.yaml:{name}" for name in ("prepare", "teach"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = project.make(tmp_path / "p")
    project.run(made, "python", "-m", "stages", "fingerprint")
    return made


def run(folder: Path, address: str, seconds: float = 60.0, **more: object) -> Outcome:
    cancel = threading.Event()
    return attempt(folder, address, project.ENV, seconds=seconds, cancel=cancel, **more)  # type: ignore[arg-type]


def stages_below() -> list[psutil.Process]:
    """DVC and what it started, but not the processes of Python's that DVC is forked from."""
    own = psutil.Process().children(recursive=True)
    return [p for p in own if p.status() != psutil.STATUS_ZOMBIE and p.cwd() != str(Path.cwd())]


def when_it_learns(folder: Path, work: object) -> threading.Thread:
    """Do `work` once teach has left its first checkpoint."""

    def wait() -> None:
        while not list((folder / "work/.resume/demo/teach").glob("*/net/state.pt")):
            time.sleep(0.01)
        work()  # type: ignore[operator]

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_stage_runs_alone_and_is_cached_the_next_time(folder: Path) -> None:
    lines: list[str] = []
    done = run(folder, PREPARE, said=lines.append)
    assert (done.state, done.message) == ("ran", "") and done.seconds > 0
    assert any(line.startswith("Running stage") for line in lines)
    assert not (folder / "work/demo/teach").exists()
    assert run(folder, PREPARE).state == "cached"


def test_what_a_user_must_mend_is_not_tried_again(folder: Path) -> None:
    project.change(folder, "demo.prepare.numbers", "many")
    done = run(folder, PREPARE)
    assert done.state == "failed" and not done.passing
    assert "params.yaml" in done.message and "numbers" in done.message


def test_a_stage_that_was_killed_may_be_tried_again(folder: Path) -> None:
    run(folder, PREPARE)

    def kill() -> None:
        for process in stages_below():
            if "teach" in process.cmdline() and process.cmdline()[1:3] == ["-m", "stages"]:
                process.kill()

    thread = when_it_learns(folder, kill)
    done = run(folder, TEACH)
    thread.join()
    assert done == Outcome("failed", done.seconds, "its process was killed", passing=True)
    assert run(folder, TEACH).state == "ran"


def test_time_over(folder: Path) -> None:
    run(folder, PREPARE)
    done = run(folder, TEACH, seconds=1.5)
    assert done.state == "failed" and done.message == "took longer than 2 s" and not done.passing
    assert not stages_below()


def test_cancelled(folder: Path) -> None:
    run(folder, PREPARE)
    cancel = threading.Event()
    thread = when_it_learns(folder, cancel.set)
    done = attempt(folder, TEACH, project.ENV, seconds=60, cancel=cancel)
    thread.join()
    assert (done.state, done.message) == ("failed", "stopped")
    assert not stages_below()
    assert not (folder / "work/demo/teach").exists()
    assert run(folder, TEACH).state == "ran", "the next run goes on from the checkpoint"


def test_two_on_the_same_stage(folder: Path) -> None:
    """DVC's lock decides; the other waits, and finds the result."""
    run(folder, PREPARE)
    found: list[Outcome] = []
    thread = when_it_learns(folder, lambda: found.append(run(folder, TEACH)))
    first = run(folder, TEACH)
    thread.join()
    assert first.state == "ran"
    assert found[0].state == "cached", found[0]


def test_dvc_is_killed_and_its_stage_works_on(folder: Path) -> None:
    """The orphan holds the pipe: it is still ended when told to, and in time."""
    run(folder, PREPARE)
    project.change(folder, "demo.teach.steps", 100_000)
    cancel = threading.Event()

    def kill() -> None:
        for process in stages_below():
            if is_dvc(process.cmdline()):
                process.kill()
        time.sleep(0.5)
        assert there()
        cancel.set()

    def there() -> list[psutil.Process]:
        every = psutil.process_iter(["cwd", "status"])
        return [p for p in every if p.info["cwd"] == str(folder)]

    thread = when_it_learns(folder, kill)
    done = attempt(folder, TEACH, project.ENV, seconds=60, cancel=cancel)
    thread.join()
    assert (done.state, done.message) == ("failed", "stopped") and done.seconds < 40
    assert not there()
