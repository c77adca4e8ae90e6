"""Where a challenger is made, and where the champion is judged beside it.

A challenger has a kept working tree of its own, which shares DVC's cache: the user's tree is never
touched, and what did not change is not computed twice. The champion's networks are judged by the
stages of that same tree, on its data, in a copy; there both are measured, one after the other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from stages.core import child, dag, digests, environment, recorded
from stages.core.door import command
from stages.core.errors import UserError
from stages.core.files import read_json, remove, write_text
from stages.core.params import lookup, read_yaml
from stages.core.profiles import make_tree
from stages.core.repro import wanted
from stages.core.tracking.address import tracking_uri
from stages.promote.decide import Judged

Sources = dict[str, dict[str, str]]
"""Paper or foundation -> what its data come from -> digest."""


def tree_of(root: Path, paper: str, profile: str, who: str) -> Path:
    return root / "work/.profiles" / f"{who}-{profile}-{paper.replace('/', '-')}"


def lay(root: Path, paper: str, profile: str) -> Path:
    """Bring the challenger's tree up to date with today's code and parameters."""
    tree = tree_of(root, paper, profile, "challenger")
    make_tree(root, profile, tree, recorded.cache_folder(root).parent.parent)
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


def set_parameters(tree: Path, values: dict[str, Any]) -> None:
    write_text(tree / "params.yaml", yaml.safe_dump(values, sort_keys=False))


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


def sources(tree: Path, paper: str, values: dict[str, Any], imports: list[str]) -> Sources:
    """What the data of a paper, and of the foundations that it stands on, come from.

    Folders outside DVC are the values of keys called `root`; beside them imports, and the packages
    that carry data.

    Raises:
        UserError: a folder is not there.
    """
    there = [dag.LOCK] if (tree / dag.LOCK).is_file() else []
    found: Sources = {}
    for name in dict.fromkeys(node.paper for node in wanted(tree, [paper], values)):
        roots = sorted({*_roots(lookup(values, dag.section(name)))})
        found[name] = {path: digests.of_paths(tree, [path]) for path in [*roots, *imports, *there]}
    return found


def _roots(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            if key == "root" and isinstance(value, str):
                yield value
            else:
                yield from _roots(value)


def unseen(values: dict[str, Any], old: Sources, new: Sources) -> list[str]:
    """Papers and foundations whose data DVC would not make anew: it does not see into a folder."""

    def changed(name: str) -> bool:
        roots = _roots(lookup(values, dag.section(name)))
        return any(old.get(name, {}).get(path) != new[name][path] for path in roots)

    return [name for name in new if changed(name)]


def reproduce(root: Path, tree: Path, paper: str, jobs: int, anew: list[str]) -> None:
    """Make the challenger by DVC, from data to verdicts.

    Args:
        anew: papers and foundations whose data are prepared in any case.

    Raises:
        UserError: a stage could not run; the same command goes on from there.
    """
    env = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri(root)}
    commands = [
        ["dvc", "repro", "--force", "--single-item", f"pipelines/{name}/dvc.yaml:prepare"]
        for name in anew
    ]
    commands.append(["stages", "repro", "--paper", paper, "--jobs", str(jobs)])
    for words in commands:
        if child.run([sys.executable, "-m", *words], tree, env):
            raise UserError(
                f"{paper} was not made anew as a whole (see above); the champion stays, and the "
                "same command goes on from there"
            )


def verdicts(tree: Path, paper: str) -> dict[str, str]:
    """Claim -> verdict, as the tree has them; none where the paper has no claims."""
    path = tree / "reports/papers" / f"{paper}.json"
    claims = read_json(path)["claims"] if path.is_file() else []
    return {claim["id"]: claim["verdict"] for claim in claims}


def judge(
    root: Path,
    challenger: Path,
    paper: str,
    profile: str,
    networks: Path,
    nodes: list[dag.Node],
    before: dict[str, str],
) -> tuple[Judged, Judged]:
    """Judge a champion's networks as the challenger's were, and measure both in turn.

    Args:
        networks: the champion's, a folder for each of `nodes` under the path of its output.
        nodes: the stages that make the networks.
        before: the verdicts that the champion had.

    Returns:
        Champion and challenger.

    Raises:
        UserError: today's stages cannot judge the champion's networks.
    """
    if lacking := [node.name for node in nodes if not (networks / node.folder).is_dir()]:
        raise UserError(
            f"the champion of {paper} has no networks of {', '.join(lacking)}: it was made with "
            "other seeds or arms; set these back, or put the challenger in use unjudged (--afresh)"
        )
    tree = tree_of(root, paper, profile, "champion")
    remove(tree)
    leave = shutil.ignore_patterns(".dvc", ".profiles", ".resume", ".logs", ".spool", "__pycache__")
    # Links, not copies: a stage never writes into a file, it puts another in its place.
    shutil.copytree(challenger, tree, symlinks=True, ignore=leave, copy_function=os.link)
    _swap(networks, tree, nodes)
    old = Judged(_run(tree, paper, "evaluate"), _bench(tree, paper), before)
    _swap(challenger, tree, nodes)
    new = Judged(_scores(challenger, paper, "evaluate"), None, verdicts(challenger, paper))
    return old, replace(new, bench=_bench(tree, paper))


def _swap(source: Path, tree: Path, nodes: list[dag.Node]) -> None:
    for node in nodes:
        remove(tree / node.folder)
        shutil.copytree(source / node.folder, tree / node.folder)


def _bench(tree: Path, paper: str) -> Any:
    return _run(tree, paper, "bench") if "bench" in dag.pipeline(tree, paper) else None


def _run(tree: Path, paper: str, stage: str) -> Any:
    """Run a stage that judges, outside DVC; give its scores."""
    node = dag.node(tree, paper, stage)
    remove(tree / node.folder)
    env = {**os.environ, "RETORT_TRACKING": "off"}
    if child.run([sys.executable, *command(node).split()[1:]], tree, env):
        raise UserError(
            f"the champion of {paper} cannot be judged by today's {stage} (see above); it stays, "
            "unless the challenger is put in use unjudged (--afresh)"
        )
    return _scores(tree, paper, stage)


def _scores(tree: Path, paper: str, stage: str) -> Any:
    import pandas

    return pandas.read_parquet(tree / "work" / paper / stage / "scores.parquet")
