"""`make verify PROFILE=smoke`: a profile twice from nothing; hashes and verdicts must agree.

The first run is `make repro`, whose stages are forked from a warm process, with JOBS=2 two at a
time; the second is bare `dvc repro`, which starts each anew. With JOBS the times are compared too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from stages.core import child, digests, warm
from stages.core.files import read_json, remove
from stages.core.params import read_yaml
from stages.core.profiles import make_tree
from stages.core.recorded import entries
from stages.core.repro import wanted
from stages.core.verified import timed_stages

NOTHING_LEFT = 3
"""Runs of each kind with nothing left to run; the median counts."""


def hashes(tree: Path, paper: str) -> dict[str, str]:
    """Output path -> hash, from the paper's dvc.lock, of outputs that rest on no timing."""
    timed = timed_stages(tree, paper)
    found: dict[str, str] = {}
    for name, entry in entries(tree, paper).items():
        if name.partition("@")[0] not in timed:
            found |= {out["path"]: out["md5"] for out in entry["outs"]}
    return found


def verdicts(tree: Path, paper: str) -> dict[str, str]:
    """Claim -> digest of its entry in the paper's verdicts, of claims that rest on no timing."""
    path = tree / "reports/papers" / f"{paper}.json"
    claims = read_json(path)["claims"] if path.is_file() else []
    return {f"claim {c['id']}": digests.of_value(c) for c in claims if not c["timing"]}


def twice(root: Path, profile: str, papers: list[str], jobs: int = 1) -> int:
    """Run twice in two folders, each with an empty cache and another hash seed, and compare.

    Args:
        papers: all of the profile's when empty.
        jobs: stages at a time in the first run; with more than one, times are told.

    Returns:
        0, or 1 where an output or a verdict differs, or the exit code of a run that failed.
    """
    console = Console(highlight=False, soft_wrap=True)
    sides: list[tuple[Path, list[str]]] = []
    commands: list[tuple[list[str], Path, dict[str, str]]] = []
    walls: list[float] = []
    for side, seed in (("a", "1"), ("b", "4242")):
        tree = root / f"work/.profiles/verify-{profile}-{side}"
        remove(tree)
        there = make_tree(root, profile, tree, tree / ".dvc/cache")
        # Those of desk are committed, and say which chain of stages takes longest.
        if profile == "desk" and (root / "receipts").is_dir():
            shutil.copytree(root / "receipts", tree / "receipts", dirs_exist_ok=True)
        chosen = papers or there
        targets = [f"pipelines/{paper}/dvc.yaml" for paper in chosen]
        console.print(f"run {side} of {profile} in {tree.relative_to(root)}")
        values = read_yaml(tree / "params.yaml")
        env = {**os.environ, "PYTHONHASHSEED": seed}
        words = [sys.executable, "-m", "dvc", "repro", "--keep-going", *targets]
        begun = time.monotonic()
        with contextlib.ExitStack() as stack:
            if side == "a" and jobs > 1:
                words = [sys.executable, "-m", "stages", "repro", "--jobs", str(jobs)]
                words += [word for paper in chosen for word in ("--paper", paper)]
            elif side == "a":
                env |= stack.enter_context(warm.kept(tree, values["common"], env))
            code = child.run(words, tree, env)
        walls.append(time.monotonic() - begun)
        if code:
            return code
        commands.append((words, tree, env))
        sides.append((tree, compared(tree, chosen, values)))
    if jobs > 1:
        _tell_times(commands, walls, jobs, console)
    return _compared(sides, console)


def _tell_times(
    commands: list[tuple[list[str], Path, dict[str, str]]],
    walls: list[float],
    jobs: int,
    console: Console,
) -> None:
    """What both runs took, and what each takes where nothing is left to run."""
    again: tuple[list[float], list[float]] = ([], [])
    for _ in range(NOTHING_LEFT):
        for spent, (words, tree, env) in zip(again, commands, strict=True):
            begun = time.monotonic()
            subprocess.run(words, cwd=tree, env=env, stdout=subprocess.DEVNULL, check=True)
            spent.append(time.monotonic() - begun)
    for what, (ours, plain) in (
        ("from nothing", walls),
        ("nothing left to run", [statistics.median(spent) for spent in again]),
    ):
        console.print(
            f"{what}: {ours:.1f} s with JOBS={jobs}, {plain:.1f} s by bare `dvc repro`: "
            f"{plain / ours:.2f} times as fast"
        )


def compared(root: Path, papers: list[str], values: dict[str, Any]) -> list[str]:
    """Whose outputs are compared: the papers', and those of the foundations that they stand on."""
    return list(dict.fromkeys(node.paper for node in wanted(root, papers, values)))


def _compared(sides: list[tuple[Path, list[str]]], console: Console) -> int:
    (first, papers), (second, _) = sides
    differing: list[Any] = []
    total = 0
    for paper in papers:
        one, two = ({**hashes(t, paper), **verdicts(t, paper)} for t in (first, second))
        total += len(one)
        differing += [path for path in sorted({*one, *two}) if one.get(path) != two.get(path)]
    for path in differing:
        console.print(f"[red]differs:[/] {path}")
    agree = total - len(differing)
    console.print(f"{agree} of {total} outputs and verdicts that rest on no timing agree")
    return 1 if differing or not total else 0
