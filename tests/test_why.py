"""`python -m stages why`: each stage that would run, with what changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests import project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = project.make(tmp_path_factory.mktemp("why") / "p")
    project.repro(made)
    return made


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    return shutil.copytree(done, tmp_path / "p", symlinks=True)


def why(folder: Path, *words: str) -> list[str]:
    return project.run(folder, "python", "-m", "stages", "why", *words).stdout.splitlines()


def told(folder: Path) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in why(folder))


def test_nothing_would_run(folder: Path) -> None:
    assert why(folder) == ["nothing has changed; nothing would run"]


def test_a_parameter_is_told_with_both_values(folder: Path) -> None:
    project.change(folder, "demo.teach.steps", 7)
    found = told(folder)
    assert "demo:prepare" not in found
    assert found["demo:teach"].startswith("params.yaml: demo.teach.steps: ")
    assert found["demo:teach"].endswith(" -> 7")
    assert found["demo:evaluate"] == "stands on demo:prune@first-0-1, demo:prune@second-0-1"


def test_what_is_told_is_what_runs(folder: Path) -> None:
    project.change(folder, "demo.teach.steps", 7)
    found = [name.removeprefix("demo:") for name in told(folder)]
    assert project.ran(project.repro(folder)) == found
    assert why(folder) == ["nothing has changed; nothing would run"]


def test_a_file_an_output_and_a_stage_that_never_ran(folder: Path) -> None:
    code = folder / "pipelines/demo/teach.py"
    code.write_text(code.read_text() + "\n# a remark\n")
    shutil.rmtree(folder / "work/demo/prepare")
    lock = folder / "pipelines/demo/dvc.lock"
    text = lock.read_text()
    lock.write_text(text[: text.index("  evaluate:")] if "  evaluate:" in text else text)
    found = told(folder)
    assert "modified: pipelines/demo/teach.py" in found["demo:teach"]
    assert "its output work/demo/prepare is missing" in found["demo:prepare"]
    assert found["demo:evaluate"].startswith("never ran here")


def test_the_device_is_told_by_what_differs(folder: Path) -> None:
    """Of a stage that reads the device, as bench does."""
    dvc = folder / "pipelines/demo/dvc.yaml"
    dvc.write_text(dvc.read_text().replace("deps: [", "deps: [work/device.json, ", 1))
    project.repro(folder)
    path = next((folder / "receipts/demo").glob("prepare.json"))
    receipt = json.loads(path.read_text())
    receipt["device"]["cpu"] = "Abacus 3000"
    path.write_text(json.dumps(receipt))
    lock = folder / "pipelines/demo/dvc.lock"
    entries = yaml.safe_load(lock.read_text())
    deps = entries["stages"]["prepare"]["deps"]
    next(dep for dep in deps if dep["path"] == "work/device.json")["md5"] = "0" * 32
    lock.write_text(yaml.safe_dump(entries))
    (folder / "work/device.json").unlink()  # as in a fresh clone
    assert "the device (" in told(folder)["demo:prepare"]
    assert "cpu: Abacus 3000 -> " in told(folder)["demo:prepare"]


def test_one_stage_of_one_paper(folder: Path) -> None:
    project.change(folder, "demo.teach.steps", 7)
    assert [line.partition(": ")[0] for line in why(folder, "demo:teach")] == ["demo:teach"]


def test_an_unknown_stage_is_named(folder: Path) -> None:
    with pytest.raises(AssertionError, match=r"unknown stage 'demo:taech'; allowed: prepare"):
        why(folder, "demo:taech")
