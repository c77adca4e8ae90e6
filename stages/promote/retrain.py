"""`python -m stages retrain <paper>`: make a challenger from today's data, and decide.

The challenger takes the champion's place only if it is not worse by more than the margins of
`retrain.yaml` and no claim of the paper fails that did not before. Champion and challenger are
judged on today's data; what the data stage normalises by is today's for both, which is the
challenger's own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from stages.core import dag, digests, receipts, repro
from stages.core.door import refresh
from stages.core.errors import UserError
from stages.core.files import listing, read_json, write_json
from stages.core.likeness import PROVENANCE
from stages.core.profiles import overlaid
from stages.core.tracking.locks import held
from stages.core.tracking.registry import REPLACED, Registry, Version, talking
from stages.core.why import reasons
from stages.promote import workspace
from stages.promote.decide import Decision, decide
from stages.promote.settings import Settings, load, made_by, with_data_of

RECORDS = "reports/retrain"
"""A file a paper: the last decision, which the board shows."""
STATE = "work/retrained.json"
"""In a challenger's tree: the day whose data it asked for, and what those came from."""


@dataclass(frozen=True)
class Challenger:
    """A network made anew.

    Attributes:
        tree: where it was made.
        nodes: the stages that made its networks.
        lineage: what a registered version is tagged with.
    """

    tree: Path
    nodes: list[dag.Node]
    lineage: dict[str, str]


def retrain(
    root: Path,
    paper: str,
    *,
    profile: str = "desk",
    jobs: int = 1,
    day: date | None = None,
    afresh: bool = False,
    patience: float = 0.0,
) -> dict[str, Any]:
    """Make a challenger, judge the champion beside it, decide, and write the decision down.

    Args:
        jobs: stages at a time.
        day: whose data are asked for; by default today, or, where nothing that the data come from
            has changed, the day of the last time.
        afresh: put the challenger in use without holding it against the champion.
        patience: seconds to wait for another retraining to end.

    Returns:
        The record of the decision, see `record`.

    Raises:
        UserError: something could not run or be compared; the champion stays.
    """
    settings = load(root, paper, overlaid(root, profile)[0])
    with _alone(root, patience), talking():
        registry = Registry(root, paper, profile)
        champion = _settled(registry)
        made = make(root, paper, settings, profile, jobs, day)
        last = registry.versions()[-1:]
        if champion and not afresh and any(_same(version, made) for version in last):
            # Decided before; a network that was rolled back does not come again by itself.
            return _unchanged(root, paper, registry, last[0], champion)
        decision = Decision("first", ())
        if champion and not afresh:
            decision = _against(root, paper, profile, registry, champion, made, settings)
        version = _register(registry, made, paper, decision)
        if decision.promotes:
            registry.promote(version, champion)
        stays = version if decision.promotes else champion
        assert stays is not None
        return record(root, paper, decision, version, stays, version)


def _settled(registry: Registry) -> Version | None:
    """The champion; a promotion that a kill cut off after its decision is finished first.

    Raises:
        UserError: some network was in use, and the registry does not say any more which one is.
    """
    champion, versions = registry.champion(), registry.versions()
    last = versions[-1] if versions else None
    if last and not last.used and last.tags.get("retort.outcome") in ("first", "promoted"):
        before = champion if champion and champion.number != last.number else None
        registry.promote(last, before)
        return registry.champion()
    used = [version.number for version in versions if version.used]
    if champion is None and used:
        raise UserError(
            f"{registry.name} has lost its champion; once in use: {', '.join(used)}. "
            f"`python -m stages rollback {registry.paper} --to N` says which one is"
        )
    return champion


def make(
    root: Path, paper: str, settings: Settings, profile: str, jobs: int, day: date | None
) -> Challenger:
    """Make the challenger in its own tree."""
    tree = workspace.lay(root, paper, profile)
    values, anew, state = _asked(root, tree, paper, settings, profile, day)
    workspace.set_parameters(tree, values)
    workspace.reproduce(root, tree, paper, jobs, anew)
    write_json(tree / STATE, state)
    nodes = made_by(tree, paper, settings.variant, values)
    oid, dirty = receipts.commit(root)
    lock = tree / "pipelines" / paper / "dvc.lock"
    lineage = {
        "commit": oid,
        "dirty": str(dirty).lower(),
        "profile": profile,
        "day": state["day"],
        "variant": settings.variant,
        "dvc_lock": digests.of_file(lock),
        "networks": _networks(tree, nodes),
        "settings": digests.of_value(settings.model_dump()),
        **_provenance(tree, nodes[0]),
    }
    return Challenger(tree, nodes, lineage)


def _asked(
    root: Path, tree: Path, paper: str, settings: Settings, profile: str, day: date | None
) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Parameters that ask for the data of now, whose data DVC would not make anew, and the state.

    The day is moved on only where something changed that the data come from: a new day is a new
    parameter, by which everything would be made anew each night.
    """
    known: dict[str, Any] = {"day": "", "sources": {}}
    if (tree / STATE).is_file():
        known = read_json(tree / STATE)
    values = overlaid(root, profile)[0]
    sources = workspace.sources(tree, paper, values, workspace.update_imports(tree))
    new = day or date.today()
    if day is None and known["day"] and sources == known["sources"]:
        new = date.fromisoformat(known["day"])
    anew = workspace.unseen(values, known["sources"], sources)
    state = {"day": new.isoformat(), "sources": sources}
    return with_data_of(values, settings, new), anew, state


def _networks(tree: Path, nodes: list[dag.Node]) -> str:
    """Digest of the networks themselves, whatever they were made by."""
    files = [file for node in nodes for file in listing(tree / node.folder)]
    names = [f.relative_to(tree).as_posix() for f in files if f.name != PROVENANCE]
    return digests.of_paths(tree, names)


def _provenance(tree: Path, node: dag.Node) -> dict[str, str]:
    """Digests of what a network was made by, as it says itself."""
    path = tree / node.folder / PROVENANCE
    found = read_json(path) if path.is_file() else {}
    return {k: found[k] for k in ("code", "data", "params", "environment") if k in found}


def _same(version: Version, made: Challenger) -> bool:
    """Whether a version is the challenger, decided on by the same settings."""
    keys = ("networks", "settings")
    return all(version.tags.get(f"retort.{key}") == made.lineage[key] for key in keys)


def _against(
    root: Path,
    paper: str,
    profile: str,
    registry: Registry,
    champion: Version,
    made: Challenger,
    settings: Settings,
) -> Decision:
    """Judge both, and decide."""
    with tempfile.TemporaryDirectory() as folder:
        networks, before = registry.fetch(champion, Path(folder))
        old, new = workspace.judge(root, made.tree, paper, profile, networks, made.nodes, before)
    return decide(settings, old, new)


def _register(registry: Registry, made: Challenger, paper: str, decision: Decision) -> Version:
    tree = made.tree
    return registry.register(
        {node.folder: tree / node.folder for node in made.nodes},
        {n: tree / n for n in ("params.yaml", f"pipelines/{paper}/dvc.lock")},
        workspace.verdicts(tree, paper),
        decision.as_dict(),
        {**made.lineage, "outcome": decision.outcome},
    )


def rollback(root: Path, paper: str, to: str | None, profile: str = "desk") -> dict[str, Any]:
    """Put an earlier champion in use again: the one before, or version `to`.

    Raises:
        UserError: there is none.
    """
    dag.pipeline(root, paper)
    with _alone(root, 0.0), talking():
        registry = Registry(root, paper, profile)
        champion = registry.champion()
        if champion is None and to is None:
            raise UserError(f"{paper} has no champion to go back from; name a version with --to")
        number = to or (champion.tags.get(REPLACED) if champion else None)
        if number is None:
            raise UserError(f"{paper}: version {champion and champion.number} is its first one")
        target = registry.once_used(number)
        registry.promote(target, None)
        last = registry.versions()[-1]
        return record(root, paper, Decision("rolled back", ()), target, target, last)


def dry_run(root: Path, paper: str, profile: str, console: Console, day: date | None) -> int:
    """Say what would run, and why; nothing is made, judged or registered."""
    settings = load(root, paper, overlaid(root, profile)[0])
    with _alone(root, 0.0):
        tree = workspace.lay(root, paper, profile)
        values, anew, _ = _asked(root, tree, paper, settings, profile, day)
        workspace.set_parameters(tree, values)
        found = reasons(tree, repro.wanted(tree, [paper], values), values)
    for node, told in found.items():
        console.print(f"[bold]{node.paper}:{node.name}[/]: {'; '.join(told)}")
    for name in anew:
        console.print(
            f"[bold]{name}:prepare[/] and what stands on it: a folder of its data changed"
        )
    if not found and not anew:
        console.print("nothing has changed; the challenger would be the network that is there")
        return 0
    known = [r for r in (receipts.read(root, node) for node in found) if r]
    minutes = sum(r["seconds"] for r in known) / 60
    console.print(f"{len(found)} stages, about {minutes:.0f} min by earlier receipts")
    return 0


def record(
    root: Path, paper: str, decision: Decision, version: Version, champion: Version, last: Version
) -> dict[str, Any]:
    """Write the decision into the report and refresh the board.

    Args:
        version: what was decided on.
        champion: in use from now on.
        last: that was registered.

    Returns:
        paper, outcome, numbers of `version`, `champion` and `last`, and findings.
    """
    made: dict[str, Any] = {
        "paper": paper,
        "outcome": decision.outcome,
        "version": version.number,
        "champion": champion.number,
        "last": last.number,
        "findings": [asdict(finding) for finding in decision.findings],
    }
    write_json(_record_of(root, paper), made)
    refresh(root)
    return made


def _unchanged(
    root: Path, paper: str, registry: Registry, last: Version, champion: Version
) -> dict[str, Any]:
    """What is told where there is nothing new; the last decision stays on the board.

    Where a kill came between its registration and its record, it is written down now.
    """
    path = _record_of(root, paper)
    known = read_json(path) if path.is_file() else {"last": None}
    if known["last"] != last.number:
        known = record(root, paper, Decision.of(registry.decision(last)), last, champion, last)
    findings = known["findings"]
    return {
        "paper": paper,
        "outcome": "unchanged",
        "version": last.number,
        "champion": champion.number,
        "findings": findings,
    }


def _record_of(root: Path, paper: str) -> Path:
    return root / RECORDS / f"{paper.replace('/', '-')}.json"


def told(made: Mapping[str, Any]) -> Iterator[str]:
    """A record in lines for people."""
    yield f"{made['paper']}: {made['outcome']}; version {made['champion']} is the champion"
    if made["outcome"] == "unchanged" and made["findings"]:
        yield "  as it was decided before:"
    for own in made["findings"]:
        mark = "✓" if own["passed"] else "✗"
        numbers = ""
        if own["value"] is not None:
            spread = f" ({own['low']:.4g} to {own['high']:.4g})" if own["low"] is not None else ""
            numbers = f", {own['value']:.4g}{spread}, bound {own['bound']:.4g}"
        yield f"  {mark} {own['kind']} {own['what']}: {own['told']}{numbers}"


@contextmanager
def _alone(root: Path, patience: float) -> Iterator[None]:
    """One retraining at a time in a clone: they measure times, and share the machine.

    Raises:
        UserError: another is at work.
    """
    with held(root / "work/.retrain.lock", patience) as mine:
        if not mine:
            raise UserError(
                "another retraining is at work in this clone; try again when it is over"
            )
        yield
