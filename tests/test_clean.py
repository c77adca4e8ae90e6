"""`make clean`: working files go, results stay, those of other profiles too."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from stages.core.profiles import make_tree
from tests import project

pytestmark = [pytest.mark.slow, pytest.mark.long]
TEACH = "work/demo/teach"


def test_the_cache_drops_what_nothing_uses(tmp_path: Path) -> None:
    folder = project.make(tmp_path / "p", git=True)
    project.repro(folder)
    project.run(folder, "git", "add", "-A")
    project.run(folder, "git", "commit", "-qm", "results")
    committed = project.outputs(folder)[TEACH]
    night = folder / "work/.profiles/night"
    make_tree(folder, "desk", night, folder / ".dvc/cache")
    project.change(night, "demo.teach.steps", 60)
    project.repro(night)
    other = project.outputs(night)[TEACH]
    project.change(folder, "demo.teach.steps", 70)
    project.repro(folder)
    unused = project.outputs(folder)[TEACH]
    project.run(folder, "git", "checkout", "-q", ".")
    project.repro(folder)
    assert len({committed, other, unused}) == 3

    clean = [sys.executable, "-m", "stages", "clean"]
    told = project.run(folder, *clean).stdout
    assert "deleted work/.resume" in told and "nothing was dropped" in told
    assert not (folder / "work/.resume").exists() and (folder / TEACH).is_dir()
    assert all(stored(folder, md5) for md5 in (committed, other, unused))
    project.run(folder, *clean, "--gc")
    assert [stored(folder, md5) for md5 in (committed, other, unused)] == [True, True, False]
    for tree in (folder, night):
        shutil.rmtree(tree / "work/demo")
        project.run(tree, "dvc", "checkout", "-q")
        assert project.ran(project.repro(tree)) == []


def stored(folder: Path, md5: str) -> bool:
    return (folder / f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}").is_file()
