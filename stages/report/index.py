"""The board of all papers: verdicts, cost and status, from whatever results are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.core import dag, receipts, verified
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.params import read_yaml
from stages.report import card, facts

FOUNDATIONS = "foundations/"


def read_papers(root: Path) -> list[dict[str, Any]]:
    """What the board says of each paper that has a pipeline, in the order of their names.

    A paper without results stays on the board, with what is missing.
    """
    values = read_yaml(root / "params.yaml")
    names = [name for name in dag.papers(root) if not name.startswith(FOUNDATIONS)]
    return [_paper(root, name, values) for name in names]


def read_foundations(root: Path) -> list[dict[str, Any]]:
    """What papers share, as `read_papers` gives a paper: it has cost and status, and no claims."""
    values = read_yaml(root / "params.yaml")
    return [_paper(root, name, values) for name in dag.papers(root) if name.startswith(FOUNDATIONS)]


def _paper(root: Path, name: str, values: dict[str, Any]) -> dict[str, Any]:
    title, arxiv = name, ""
    path = root / "pipelines" / name / "README.md"
    if path.is_file():
        said = card.read(path)
        title, arxiv = said.title, said.arxiv
    claims: list[dict[str, Any]] = []
    profile, broken = "", ""
    if (root / "reports/papers" / f"{name}.json").is_file():
        try:
            verdicts = facts.read_verdicts(root / "reports/papers" / f"{name}.json")
            claims, profile = verdicts["claims"], verdicts["profile"]
        except (UserError, KeyError, ValueError) as error:
            broken = f"verdicts unreadable: {error}"
    nodes = dag.nodes(root, name, values)
    found = {node.name: receipts.read(root, node) for node in nodes}
    page = f"papers/{name}.html"
    return {
        "name": name,
        "title": title,
        "arxiv": arxiv,
        "profile": profile,
        "claims": claims,
        "page": page if (root / "reports" / page).is_file() else "",
        "status": broken or _status(nodes, found),
        "verified": verified.summary(root, name, nodes),
        "retrained": _retrained(root, name),
        "cost": _cost({stage: receipt for stage, receipt in found.items() if receipt}),
    }


def _retrained(root: Path, name: str) -> dict[str, Any] | None:
    """The last decision on a network made anew, as `python -m stages retrain` left it."""
    path = root / "reports/retrain" / f"{name}.json"
    found: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return found


def _status(nodes: list[dag.Node], found: dict[str, Any]) -> str:
    """Say "complete", or which stages have never run; arms of one stage are counted."""
    missing = [node for node in nodes if not found[node.name]]
    if len(missing) == len(nodes):
        return "not run yet"
    return f"missing: {_counted(missing)}" if missing else "complete"


def _counted(nodes: list[dag.Node]) -> str:
    stages = [node.stage for node in nodes]
    counts = {stage: stages.count(stage) for stage in stages}
    return ", ".join(s if n == 1 else f"{s} (×{n})" for s, n in counts.items())


def _cost(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Sum the receipts: CPU and wall clock in seconds, peak memory in MB, costliest stages."""
    cpu: dict[str, float] = {}
    for name, receipt in found.items():
        stage = name.partition("@")[0]
        cpu[stage] = cpu.get(stage, 0.0) + receipt["cpu_seconds"]
    return {
        "cpu": sum(cpu.values()),
        "wall": sum(receipt["seconds"] for receipt in found.values()),
        "memory_mb": max((r["peak_memory_mb"] for r in found.values()), default=0.0),
        "top": sorted(cpu.items(), key=lambda entry: -entry[1])[:3],
    }
