"""`python -m stages retrain <paper>`: make a challenger from today's data, and decide.

The challenger takes the champion's place only if it is not worse by more than the margins of
`retrain.yaml` and no claim of the paper fails that did not before. Champion and challenger are
judged on today's data; what the data stage normalises by is today's for both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from stages.core import dag, digests, receipts, recorded, repro
from stages.core.door import refresh
from stages.core.errors import UserError
from stages.core.files import write_json
from stages.core.params import read_yaml
from stages.core.tracking.locks import held
from stages.core.tracking.registry import Registry, Version, talking
from stages.core.why import reasons
from stages.promote import workspace
from stages.promote.decide import Decision, Judged, decide
from stages.promote.settings import Settings, load, made_by

RECORDS = "reports/retrain"
"""A file a paper: the last decision, which the board shows."""


@dataclass(frozen=True)
class Challenger:
    """A network made anew.

    Attributes:
        tree: where it was made.
        nodes: the stages that made its networks.
        networks: digest of the networks' hashes in DVC.
        lineage: what a registered version is tagged with.
    """

    tree: Path
    nodes: list[dag.Node]
    networks: str
    lineage: dict[str, str]


def retrain(
    root: Path, paper: str, *, profile: str = "desk", jobs: int = 1, day: date | None = None
) -> dict[str, Any]:
    """Make a challenger, judge the champion beside it, decide, and write the decision down.

    Args:
        jobs: stages at a time.
        day: whose data are asked for; today by default.

    Returns:
        The record of the decision, see `record`.

    Raises:
        UserError: something could not run or be compared; the champion stays.
    """
    settings = load(root, paper, read_yaml(root / "params.yaml"))
    registry = Registry(root, paper)
    with _alone(root, paper), talking():
        made = make(root, paper, settings, profile, jobs, day or date.today())
        champion, latest = registry.champion(), registry.latest()
        if champion and latest and latest.tags.get("retort.networks") == made.networks:
            # Decided before; a network that was rolled back does not come again by itself.
            return record(root, paper, "unchanged", latest.number, champion, ())
        before = None
        if champion is not None:
            before = champions(root, paper, registry, champion, made)
        decision = decide(settings, before, workspace.judged(made.tree, paper))
        return settle(root, paper, registry, champion, made, decision)


def make(
    root: Path, paper: str, settings: Settings, profile: str, jobs: int, day: date
) -> Challenger:
    """Make the challenger in its own tree, from the data of `day`."""
    tree = workspace.lay(root, paper, profile, settings, day)
    workspace.update_imports(tree)
    values = read_yaml(tree / "params.yaml")
    workspace.reproduce(root, tree, paper, jobs, workspace.folders(tree, paper, values))
    nodes = made_by(tree, paper, settings.variant, values)
    lock = recorded.entries(tree, paper)
    hashes = {out["path"]: out["md5"] for node in nodes for out in lock[node.name]["outs"]}
    receipt = receipts.read(tree, nodes[0]) or {}
    oid, dirty = receipts.commit(root)
    lineage = {
        "commit": oid,
        "dirty": str(dirty).lower(),
        "profile": profile,
        "day": day.isoformat(),
        "variant": settings.variant,
        "dvc_lock": digests.of_paths(tree, [f"pipelines/{paper}/dvc.lock"]),
        "networks": digests.of_value(hashes),
        **{key: receipt[key] for key in ("code", "data", "params", "environment") if receipt},
    }
    return Challenger(tree, nodes, lineage["networks"], lineage)


def champions(
    root: Path, paper: str, registry: Registry, champion: Version, made: Challenger
) -> Judged:
    """What today's stages find of the champion's networks on today's data."""
    with tempfile.TemporaryDirectory() as folder:
        networks, verdicts = registry.fetch(champion, Path(folder))
        tree = workspace.judge(root, made.tree, paper, networks, made.nodes)
    return workspace.judged(tree, paper, verdicts)


def settle(
    root: Path,
    paper: str,
    registry: Registry,
    champion: Version | None,
    made: Challenger,
    decision: Decision,
) -> dict[str, Any]:
    """Register the challenger with the decision, put it in use or not, write the record."""
    tree = made.tree
    verdicts = dict(workspace.judged(tree, paper).verdicts)
    texts = {n: tree / n for n in ("params.yaml", f"pipelines/{paper}/dvc.lock")}
    version = registry.register(
        {node.folder: tree / node.folder for node in made.nodes},
        texts,
        verdicts,
        decision.as_dict(),
        {**made.lineage, "outcome": decision.outcome},
    )
    if decision.promotes:
        registry.promote(version, champion)
    return record(root, paper, decision.outcome, version.number, champion, decision.findings)


def rollback(root: Path, paper: str, to: str | None) -> dict[str, Any]:
    """Put an earlier champion in use again: the one before, or version `to`.

    Raises:
        UserError: there is none.
    """
    dag.pipeline(root, paper)
    registry = Registry(root, paper)
    with _alone(root, paper), talking():
        champion = registry.champion()
        if champion is None:
            raise UserError(f"{paper} has no champion yet: `python -m stages retrain {paper}`")
        number = to or champion.tags.get("retort.replaced")
        if number is None:
            raise UserError(f"{paper}: version {champion.number} is its first champion")
        target = registry.version(number)
        registry.promote(target, None)
        return record(root, paper, "rolled back", target.number, champion, ())


def dry_run(root: Path, paper: str, profile: str, console: Console, day: date | None = None) -> int:
    """Say what would run, and why; nothing is made, judged or registered."""
    settings = load(root, paper, read_yaml(root / "params.yaml"))
    with _alone(root, paper):
        tree = workspace.lay(root, paper, profile, settings, day or date.today())
        values = read_yaml(tree / "params.yaml")
        workspace.folders(tree, paper, values)
        found = reasons(tree, repro.wanted(tree, [paper], values), values)
    for node, told in found.items():
        console.print(f"[bold]{node.paper}:{node.name}[/]: {'; '.join(told)}", markup=True)
    known = [r for r in (receipts.read(root, node) for node in found) if r]
    minutes = sum(r["seconds"] for r in known) / 60
    if not found:
        console.print("nothing has changed; the challenger would be the network that is there")
    else:
        console.print(f"{len(found)} stages, about {minutes:.0f} min by earlier receipts")
    return 0


def record(
    root: Path,
    paper: str,
    outcome: str,
    version: str,
    champion: Version | None,
    findings: Any,
) -> dict[str, Any]:
    """Write the decision into the report and refresh the board.

    Returns:
        paper, outcome, `version` that it is about, `champion` in use from now on, and findings.
    """
    stays = champion.number if champion and outcome in ("refused", "unchanged") else version
    made: dict[str, Any] = {
        "paper": paper,
        "outcome": outcome,
        "version": version,
        "champion": stays,
        "findings": [dict(vars(finding)) for finding in findings],
    }
    write_json(root / RECORDS / f"{paper.replace('/', '-')}.json", made)
    refresh(root)
    return made


def told(made: Mapping[str, Any]) -> Iterator[str]:
    """A record in lines for people."""
    yield f"{made['paper']}: {made['outcome']}; version {made['champion']} is the champion"
    for own in made["findings"]:
        mark = "✓" if own["passed"] else "✗"
        numbers = ""
        if own["value"] is not None:
            spread = f" ({own['low']:.4g} to {own['high']:.4g})" if own["low"] is not None else ""
            numbers = f", {own['value']:.4g}{spread}, bound {own['bound']:.4g}"
        yield f"  {mark} {own['kind']} {own['what']}: {own['told']}{numbers}"


@contextmanager
def _alone(root: Path, paper: str) -> Iterator[None]:
    """One retraining of a paper at a time.

    Raises:
        UserError: another is at work.
    """
    path = root / "work/.retrain" / f"{paper.replace('/', '-')}.lock"
    with held(path) as mine:
        if not mine:
            raise UserError(f"another retraining of {paper} is at work")
        yield
