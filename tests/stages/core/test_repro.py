"""Which stages a paper needs: its own, and of foundations those that it stands on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stages.core.files import write_text
from stages.core.repro import wanted
from stages.core.twice import compared

VALUES = {"foundations": {"ground": {"teach": {"variants": {"one": {}, "two": {}}}}}}


def lay(root: Path, paper: str, stages: dict[str, list[str]]) -> None:
    """A paper whose stages read these folders and write their own."""
    entries = {
        name: {"cmd": f"x {paper}", "deps": deps, "outs": [f"work/{paper}/{name}"]}
        for name, deps in stages.items()
    }
    write_text(
        root / "pipelines" / paper / "dvc.yaml",
        yaml.safe_dump({"stages": entries}, sort_keys=False),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lay(tmp_path, "alone", {"prepare": [], "evaluate": ["work/alone/prepare"]})
    ground = "work/foundations/ground"
    lay(tmp_path, "above", {"evaluate": [f"{ground}/teach/one/weights"]})
    lay(tmp_path, "foundations/ground", {"prepare": [], "judge": [f"{ground}/prepare"]})
    path = tmp_path / "pipelines/foundations/ground/dvc.yaml"
    made = yaml.safe_load(path.read_text())
    made["stages"]["teach"] = {
        "matrix": {"variant": "${foundations.ground.teach.variants}"},
        "cmd": "x",
        "deps": [f"{ground}/prepare"],
        "outs": [ground + "/teach/${item.variant}"],
    }
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    return tmp_path


def names(root: Path, *papers: str) -> list[str]:
    return [f"{n.paper}:{n.name}" for n in wanted(root, list(papers), VALUES)]


def test_a_paper_brings_what_it_stands_on_and_no_more(root: Path) -> None:
    """`judge` and the other teacher are left out: DVC does not run them for this paper either."""
    own = "foundations/ground:"
    assert names(root, "above") == [own + "prepare", own + "teach@one", "above:evaluate"]


def test_a_paper_that_stands_on_nothing_waits_for_nothing(root: Path) -> None:
    assert names(root, "alone") == ["alone:prepare", "alone:evaluate"]


def test_a_foundation_that_is_asked_for_comes_whole_and_first(root: Path) -> None:
    own = "foundations/ground:"
    found = names(root, "above", "foundations/ground")
    assert set(found[:4]) == {own + n for n in ("prepare", "judge", "teach@one", "teach@two")}
    assert found[4:] == ["above:evaluate"]


def test_what_a_paper_stands_on_is_verified_with_it(root: Path) -> None:
    assert compared(root, ["above"], VALUES) == ["foundations/ground", "above"]
    assert compared(root, ["alone"], VALUES) == ["alone"]
