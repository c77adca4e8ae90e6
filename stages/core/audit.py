"""Audit of DVC's memory: are stages deterministic, and does something back every result?

DVC's run cache keeps, under a key made of command, parameters and the hashes of inputs, each list
of output hashes that a run of it gave. Two lists under one key are a stage that does not give the
same bytes twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from stages.core import dag, digests, receipts
from stages.core.errors import UserError
from stages.core.params import lookup, read_yaml
from stages.core.recorded import entries

SHOWN = 6
"""Differing outputs that are named of a stage."""


@dataclass(frozen=True)
class Unsteady:
    """A key of the run cache under which runs gave different outputs.

    Attributes:
        command: of the stage.
        differing: outputs whose hashes differ.
        runs: how many different lists of hashes there are.
    """

    command: str
    differing: tuple[str, ...]
    runs: int


def audit(root: Path, console: Console) -> int:
    """Print what is not deterministic and what nothing backs.

    Returns:
        0, or 1 where there is either.
    """
    runs = _runs(root)
    values = read_yaml(root / "params.yaml")
    unsteady = list(_unsteady(runs))
    for found in unsteady:
        names = ", ".join(found.differing[:SHOWN])
        console.print(
            f"[bold red]not deterministic:[/] {found.command}: {found.runs} runs of the same "
            f"inputs differ in {names}"
        )
    total = backed = 0
    for paper in dag.papers(root):
        for name, entry in entries(root, paper).items():
            total += 1
            known = _runs_of(entry, runs)
            if known:
                same = any(_hashes(run, "outs") == _hashes(entry, "outs") for run in known)
                lacks = "" if same else "the run cache has other outputs of the same inputs"
            elif lacks := _lacks(root, paper, name, values):
                lacks = f"not in the run cache, {lacks}"
            if lacks:
                console.print(f"[bold]not backed:[/] {paper}:{name}: {lacks}")
            else:
                backed += 1
    console.print(
        f"{sum(map(len, runs.values()))} runs under {len(runs)} keys, {len(unsteady)} keys with "
        f"different outputs; {backed} of {total} entries of dvc.lock backed"
    )
    return 1 if unsteady or backed < total else 0


Run = Mapping[str, Any]


def _runs(root: Path) -> dict[str, list[Run]]:
    """Key -> the runs under it."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        base = Path(repo.stage_cache.cache_dir)
    return {
        folder.name: [read_yaml(file) for file in sorted(folder.iterdir()) if _is_value(file)]
        for folder in sorted(base.glob("*/*"))
    }


def _is_value(file: Path) -> bool:
    """Whether this is a whole entry: DVC writes into a file with another name first."""
    return len(file.name) == 64


def _unsteady(runs: Mapping[str, list[Run]]) -> Iterator[Unsteady]:
    for found in runs.values():
        hashes = [_hashes(run, "outs") for run in found]
        differing = sorted({path for own in hashes for path in own if _differ(path, hashes)})
        if differing:
            yield Unsteady(found[0]["cmd"], tuple(differing), len(found))


def _differ(path: str, hashes: list[dict[str, str]]) -> bool:
    return len({own.get(path) for own in hashes}) > 1


def _hashes(entry: Run, what: str) -> dict[str, str]:
    return {item["path"]: item["md5"] for item in entry.get(what, []) if "md5" in item}


def _runs_of(entry: Run, runs: Mapping[str, list[Run]]) -> list[Run]:
    """Runs of an entry's command on its inputs."""
    return [
        run
        for found in runs.values()
        for run in found
        if run["cmd"] == entry["cmd"]
        and run.get("params") == entry.get("params")
        and _hashes(run, "deps") == _hashes(entry, "deps")
    ]


def _lacks(root: Path, paper: str, name: str, values: dict[str, Any]) -> str:
    """Why no receipt tells of a run of this code on these inputs; "" where one does."""
    node = next((n for n in dag.nodes(root, paper, values) if n.name == name), None)
    if node is None:
        return "and params.yaml has no such stage any more"
    if (receipt := receipts.read(root, node)) is None:
        return "and without a receipt"
    try:
        now = {
            "code": digests.of_paths(root, node.code),
            "data": receipts.data(root, node),
            "params": digests.of_value({key: lookup(values, key) for key in node.params}),
        }
    except UserError as error:
        return f"and its receipt cannot be held against its inputs ({error})"
    other = [key for key, value in now.items() if receipt.get(key) != value]
    return f"and its receipt is of other {' and '.join(other)}" if other else ""
