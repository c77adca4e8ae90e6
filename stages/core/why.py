"""Why a stage would run: what DVC found changed, told down to the value.

DVC says that `params.yaml` or a file differs from what `dvc.lock` recorded; here the recorded value
stands beside the new one. Device and packages are told from the receipt of the last run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from stages.core import checks, dag, environment, receipts
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.params import lookup, read_yaml
from stages.core.recorded import entries, overlap
from stages.core.repro import changes, wanted

SHOWN = 4
"""Reasons of one kind that are named before "and n more"."""


def why(root: Path, chosen: list[str], console: Console) -> int:
    """Print a line for every stage that would run.

    Args:
        chosen: papers or `<paper>:<stage>`; empty for all.

    Raises:
        UserError: there is no such paper or stage.
    """
    values = read_yaml(root / "params.yaml")
    checks.refuse_wrong_matrices(root, values, dag.papers(root))
    nodes = wanted(root, _papers(root, chosen), values)
    for name in chosen:
        if not any(_names(name, node) for node in nodes):
            stages = dict.fromkeys(n.stage for n in nodes if n.paper == name.partition(":")[0])
            raise UserError(f"unknown stage '{name}'; allowed: {', '.join(stages)}")
    environment.fingerprint(root)
    found = reasons(root, nodes, values)
    told = [n for n in nodes if n in found and (not chosen or any(_names(c, n) for c in chosen))]
    for node in told:
        console.print(f"[bold]{node.paper}:{node.name}[/]: {escape('; '.join(found[node]))}")
    if not told:
        console.print("nothing has changed; nothing would run")
    return 0


def reasons(root: Path, nodes: list[dag.Node], values: dict[str, Any]) -> dict[dag.Node, list[str]]:
    """Stages that would run, in the order of `nodes`, each with what changed."""
    changed = changes(root)
    found: dict[dag.Node, list[str]] = {}
    for node in nodes:
        made = {d: [n for n in found for out in n.outs if overlap(d, out)] for d in node.deps}
        above = list(dict.fromkeys(f"{n.paper}:{n.name}" for some in made.values() for n in some))
        own = list(_own(root, node, changed.get(node.address, []), values, made))
        if own or above:
            found[node] = own + ([f"stands on {_some(above)}"] if above else [])
    return found


def _papers(root: Path, chosen: list[str]) -> list[str]:
    there = dag.papers(root)
    papers = list(dict.fromkeys(name.partition(":")[0] for name in chosen))
    for paper in papers:
        if paper not in there:
            raise UserError(f"unknown paper '{paper}'; allowed: {', '.join(there)}")
    return papers or there


def _names(name: str, node: dag.Node) -> bool:
    paper, _, stage = name.partition(":")
    return paper == node.paper and stage in ("", node.stage, node.name)


def _own(
    root: Path,
    node: dag.Node,
    changed: list[Any],
    values: dict[str, Any],
    made: Mapping[str, list[dag.Node]],
) -> Iterator[str]:
    """What of the stage itself changed; `made`: stages that will make an input anew."""
    if not changed:
        return
    recorded = entries(root, node.paper).get(node.name)
    if recorded is None:
        yield "never ran here"
        return
    for change in changed:
        if not isinstance(change, Mapping):
            yield str(change)
            continue
        if "changed command" in change:
            yield "its command"
        files: dict[str, list[str]] = {}
        for dep, state in change.get("changed deps", {}).items():
            if isinstance(state, Mapping):
                yield from _parameters(dep, list(state), recorded, values, root)
            elif dep == dag.DEVICE:
                yield _against_receipt(root, node, "device", "the device")
            elif dep == dag.ENVIRONMENT:
                yield _against_receipt(root, node, "versions", "the packages or instruction set")
            elif not made[dep]:
                files.setdefault(str(state), []).append(dep)
        for state, names in files.items():
            yield f"{state}: {_some(names)}"
        for out, state in change.get("changed outs", {}).items():
            yield f"its output {out} is {'missing' if state == 'deleted' else state}"


def _parameters(
    file: str, keys: list[str], recorded: dict[str, Any], values: dict[str, Any], root: Path
) -> Iterator[str]:
    """Every value below the keys that differs from what dvc.lock recorded."""
    now = values if file == "params.yaml" else read_yaml(root / file)
    then = recorded.get("params", {}).get(file, {})
    for key in keys:
        try:
            new = lookup(now, key, file)
        except UserError:
            yield f"{file} has no {key} any more"
            continue
        if key not in then:
            yield f"{file}: {key} is read now"
            continue
        different = list(_leaves(key, then[key], new))
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        yield f"{file}: {', '.join(different[:SHOWN])}{more}"


def _leaves(key: str, then: Any, now: Any) -> Iterator[str]:
    """`key: old -> new` for every value that differs."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*then, *now]):
            below = f"{key}.{name}"
            if name not in now:
                yield f"{below} is gone"
            elif name not in then:
                yield f"{below} is new"
            else:
                yield from _leaves(below, then[name], now[name])
    elif then != now:
        yield f"{key}: {then} -> {now}"


def _against_receipt(root: Path, node: dag.Node, field: str, what: str) -> str:
    """What of the device or the packages differs from the last run's."""
    receipt = receipts.read(root, node) or {}
    now = read_json(root / dag.DEVICE) if field == "device" else environment.versions()
    different = list(_leaves("", receipt.get(field, {}), now)) if receipt else []
    # A package that the stage did not load, or loads only now, is no difference of this machine.
    different = [text.lstrip(".") for text in different if " -> " in text]
    return f"{what} ({', '.join(different)})" if different else what


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
