"""The receipt of verification: which stages gave the same bytes again, elsewhere.

`receipts/<paper>/verified.json` holds an outcome a stage, each bound to the entry of dvc.lock that
was compared, and the runs that they come from. It grows: a later run adds to it, and an outcome
counts only as long as its entry of dvc.lock is the one that is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core import dag, digests
from stages.core.files import read_json, write_json
from stages.core.recorded import entries

GOOD = ("same", "close")
"""Outcomes of a stage that agrees: in every byte, or, on other kernels, within the tolerance."""


@dataclass(frozen=True)
class Summary:
    """How many of a paper's stages were run again, against what dvc.lock holds now.

    Attributes:
        total: stages whose outputs rest on no timing.
        agree: of these, the names of those that agreed.
        differ: of these, name -> files that differ, or why it failed.
    """

    total: int
    agree: tuple[str, ...]
    differ: Mapping[str, tuple[str, ...]]


def path_of(root: Path, paper: str) -> Path:
    return root / "receipts" / paper / "verified.json"


def read(root: Path, paper: str) -> dict[str, Any]:
    """What was verified of a paper: `stages` and `runs`."""
    path = path_of(root, paper)
    found: dict[str, Any] = read_json(path) if path.is_file() else {"stages": {}, "runs": {}}
    return found


def add(
    root: Path, node: dag.Node, entry: Any, outcome: Mapping[str, Any], run: Mapping[str, Any]
) -> None:
    """Write down how one stage came out; runs that no outcome rests on any more are dropped.

    Args:
        entry: the stage's entry of dvc.lock, with which it was compared.
        outcome: `outcome`, `differing` and what else is to be kept.
        run: commit, device, versions and how the run was made.
    """
    known = read(root, node.paper)
    number = digests.of_value(run)
    known["stages"][node.name] = {**outcome, "lock": digests.of_value(entry), "run": number}
    runs = {**known["runs"], number: dict(run)}
    used = {stage["run"] for stage in known["stages"].values()}
    known["runs"] = {key: value for key, value in runs.items() if key in used}
    write_json(path_of(root, node.paper), known)


def current(root: Path, paper: str) -> dict[str, dict[str, Any]]:
    """Name -> outcome, of the stages whose entry of dvc.lock is still the one compared."""
    stages = read(root, paper)["stages"]
    # The board asks this of every paper at each page, and a dvc.lock is long.
    lock = entries(root, paper) if stages else {}
    return {
        name: outcome
        for name, outcome in stages.items()
        if name in lock and outcome["lock"] == digests.of_value(lock[name])
    }


def timed_stages(root: Path, paper: str) -> set[str]:
    """Stages whose output rests on a timing (`meta: {timing: true}` in dvc.yaml)."""
    return {
        name
        for name, entry in dag.pipeline(root, paper).items()
        if entry.get("meta", {}).get("timing")
    }


def summary(root: Path, paper: str, nodes: list[dag.Node]) -> Summary:
    """Sum up a paper's receipt.

    Args:
        nodes: the paper's stages.
    """
    timed = timed_stages(root, paper)
    names = [node.name for node in nodes if node.stage not in timed]
    found = {name: own for name, own in current(root, paper).items() if name in names}
    return Summary(
        len(names),
        tuple(name for name, own in found.items() if own["outcome"] in GOOD),
        {name: tuple(o["differing"]) for name, o in found.items() if o["outcome"] not in GOOD},
    )
