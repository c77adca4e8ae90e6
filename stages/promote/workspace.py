"""Where a challenger is made, and where the champion is judged beside it.

A challenger has a kept working tree of its own, which shares DVC's cache: the user's tree is never
touched, and what did not change is not computed twice. The champion's networks are judged by the
stages of that same tree, on its data, in a copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from stages.core import child, dag, digests, environment, recorded
from stages.core.door import command
from stages.core.errors import UserError
from stages.core.files import read_json, remove, write_json, write_text
from stages.core.params import lookup, read_yaml
from stages.core.profiles import make_tree, overlaid
from stages.core.tracking.address import tracking_uri
from stages.promote.decide import Judged
from stages.promote.settings import Settings, with_data_of

FOLDERS = "work/retrained-from.json"
"""In a challenger's tree: digests of the folders from which its data came."""
JUDGES = ("evaluate", "bench")


def tree_of(root: Path, paper: str, who: str) -> Path:
    return root / "work/.profiles" / f"{who}-{paper.replace('/', '-')}"


def lay(root: Path, paper: str, profile: str, settings: Settings, day: date) -> Path:
    """Bring the challenger's tree up to date: today's code, and what asks for today's data."""
    tree = tree_of(root, paper, "challenger")
    make_tree(root, profile, tree, recorded.cache_folder(root).parent.parent)
    values = with_data_of(overlaid(root, profile)[0], settings, day)
    write_text(tree / "params.yaml", yaml.safe_dump(values, sort_keys=False))
    environment.fingerprint(tree)
    if profile == "desk":
        _begin_with(root, tree)
    return tree


def _begin_with(root: Path, tree: Path) -> None:
    """Give a new tree what the user's has of results, so that only what changed is made."""
    names = [f"pipelines/{name}/dvc.lock" for name in dag.papers(root)]
    fresh = [n for n in names if (root / n).is_file() and not (tree / n).is_file()]
    for name in fresh:
        shutil.copyfile(root / name, tree / name)
    if fresh:
        # What the cache lacks is made by `dvc repro`.
        words = [sys.executable, "-m", "dvc", "checkout", "--quiet", "--allow-missing"]
        subprocess.run(words, cwd=tree, capture_output=True, check=False)


def update_imports(tree: Path) -> list[str]:
    """Ask the sources of `dvc import` and `dvc import-url` for what they have now.

    Raises:
        UserError: a source cannot be had.
    """
    found = [p for p in sorted(tree.rglob("*.dvc")) if p.is_file() and "deps" in read_yaml(p)]
    names = [p.relative_to(tree).as_posix() for p in found if ".dvc" not in p.parts[:-1]]
    for name in names:
        words = [sys.executable, "-m", "dvc", "update", "--quiet", name]
        done = subprocess.run(words, cwd=tree, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{name} cannot be updated from its source:\n{done.stderr.strip()}")
    return names


def folders(tree: Path, paper: str, values: dict[str, Any]) -> dict[str, str]:
    """Folders outside DVC from which a paper's data come, each with the digest of its files.

    They are the values of keys called `root`.

    Raises:
        UserError: one is not there.
    """
    own = lookup(values, dag.section(paper))
    return {name: digests.of_paths(tree, [name]) for name in sorted({*_roots(own)})}


def _roots(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            if key == "root" and isinstance(value, str):
                yield value
            else:
                yield from _roots(value)


def reproduce(root: Path, tree: Path, paper: str, jobs: int, now: dict[str, str]) -> None:
    """Make the challenger by DVC, from data to verdicts.

    Args:
        now: as `folders` gives it. DVC does not see into such a folder: where one has changed, the
            data are prepared anew.

    Raises:
        UserError: a stage could not run; the same command goes on from there.
    """
    env = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri(root)}
    known = read_json(tree / FOLDERS) if (tree / FOLDERS).is_file() else {}
    lock = recorded.entries(tree, paper)
    if "prepare" in lock and known != now:
        address = f"pipelines/{paper}/dvc.yaml:prepare"
        words = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", address]
        _run(words, tree, env, paper)
    words = [sys.executable, "-m", "stages", "repro", "--paper", paper, "--jobs", str(jobs)]
    _run(words, tree, env, paper)
    write_json(tree / FOLDERS, now)


def _run(words: list[str], tree: Path, env: dict[str, str], paper: str) -> None:
    if child.run(words, tree, env):
        raise UserError(
            f"{paper} was not made anew as a whole (see above); the champion stays, and the same "
            "command goes on from there"
        )


def judged(tree: Path, paper: str, verdicts: dict[str, str] | None = None) -> Judged:
    """What the stages found in a tree.

    Args:
        verdicts: in place of the tree's own.
    """
    import pandas

    tables = {name: tree / "work" / paper / name / "scores.parquet" for name in JUDGES}
    found = {name: pandas.read_parquet(p) for name, p in tables.items() if p.is_file()}
    if verdicts is None:
        path = tree / "reports/papers" / f"{paper}.json"
        claims = read_json(path)["claims"] if path.is_file() else []
        verdicts = {claim["id"]: claim["verdict"] for claim in claims}
    return Judged(found["evaluate"], found.get("bench"), verdicts)


def judge(root: Path, challenger: Path, paper: str, networks: Path, nodes: list[dag.Node]) -> Path:
    """Judge a champion's networks as the challenger's were; gives the tree that holds the scores.

    Args:
        networks: the champion's, a folder for each of `nodes` under the path of its output.
        nodes: the stages that make the networks.

    Raises:
        UserError: today's stages cannot judge them.
    """
    tree = tree_of(root, paper, "champion")
    remove(tree)
    leave = shutil.ignore_patterns(".dvc", ".profiles", ".resume", ".logs", ".spool", "__pycache__")
    # Links, not copies: a stage never writes into a file, it puts another in its place.
    shutil.copytree(challenger, tree, symlinks=True, ignore=leave, copy_function=os.link)
    for node in nodes:
        remove(tree / node.folder)
        shutil.copytree(networks / node.folder, tree / node.folder)
    env = {**os.environ, "RETORT_TRACKING": "off"}
    for stage in JUDGES:
        if stage not in dag.pipeline(tree, paper):
            continue
        node = dag.node(tree, paper, stage)
        remove(tree / node.folder)
        if child.run([sys.executable, *command(node).split()[1:]], tree, env):
            raise UserError(
                f"the champion of {paper} cannot be judged by today's {stage} (see above); it stays"
            )
    return tree
