"""`make verify`: stages run again elsewhere; are the bytes those that `dvc.lock` holds?

In a clean copy of the tree, in another folder, with another hash seed and started cold, stages run
on the inputs that `dvc.lock` records, the last ones first where nothing stands in between. Stages
that rest on a timing are left out: their numbers differ by nature. One thread has no order to
change; whoever sets more in `common.threads` gets other sums, and other entries of `dvc.lock`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from stages.core import child, dag, digests, environment, receipts, recorded, repro, verified
from stages.core.backing import backing
from stages.core.door import command, refresh
from stages.core.errors import UserError
from stages.core.files import read_json, remove
from stages.core.likeness import TOLERANCE, alike
from stages.core.params import read_yaml
from stages.core.profiles import make_tree
from stages.core.tracking.locks import held

SEED = "4242"
"""Python's hash seed of the second run."""
START_SECONDS = 4.0
"""Of a stage that is started cold, beside its own work."""
NO_WORD = ("no input", "not comparable")
"""Outcomes that say nothing of a stage."""
SHOWN = 4
"""Differing files that are named of a stage."""


def verify(root: Path, papers: list[str], budget: float | None) -> int:
    """Run stages of the profile desk again and compare what they give with `dvc.lock`.

    Args:
        papers: all when empty, with the foundations that they stand on.
        budget: seconds to spend, by earlier receipts, on those that back the most claims; what
            was not verified before goes first. None for all stages.

    Returns:
        0, or 1 where a stage differed or failed, or none could be compared.

    Raises:
        UserError: there is nothing to compare with, or another is at work.
    """
    console = Console(highlight=False, soft_wrap=True)
    values = read_yaml(root / "params.yaml")
    environment.fingerprint(root)
    wanted = repro.wanted(root, repro.chosen_papers(root, papers), values)
    nodes = list(_comparable(root, wanted, console))
    if not nodes:
        raise UserError("no stage can be compared: `make repro` first, or `git checkout` its state")
    nodes = _within(root, nodes, values, budget, console)
    with held(root / "work/.verify.lock") as mine:
        if not mine:
            raise UserError("another `make verify` is at work here")
        return _verify(root, wanted, nodes, console)


def _verify(root: Path, wanted: list[dag.Node], nodes: list[dag.Node], console: Console) -> int:
    tree = root / "work/.profiles/verify"
    cache = recorded.cache_folder(root)
    _lay(root, tree, cache)
    oid, dirty = receipts.commit(root)
    about = {
        "commit": oid,
        "dirty": dirty,
        "device": read_json(tree / dag.DEVICE),
        "environment": digests.of_paths(tree, [dag.ENVIRONMENT]),
        "versions": environment.versions(),
        "hash_seed": SEED,
        "tolerance": TOLERANCE,
    }
    wrong = compared = 0
    for node in _last_first(nodes):
        entry = recorded.entries(root, node.paper)[node.name]
        begun = time.monotonic()
        outcome = _again(tree, cache, node, entry, wanted)
        seconds = time.monotonic() - begun
        console.print(f"{node.paper}:{node.name}: {_told(outcome)} ({seconds:.0f} s)")
        if outcome["outcome"] in NO_WORD:
            continue
        verified.add(root, node, entry, {**outcome, "seconds": round(seconds, 1)}, about)
        compared += 1
        wrong += outcome["outcome"] not in verified.GOOD
    for paper in dict.fromkeys(node.paper for node in wanted):
        own = verified.summary(root, paper, [n for n in wanted if n.paper == paper])
        differ = f", [bold red]{len(own.differ)} differ[/]" if own.differ else ""
        console.print(f"{paper}: {len(own.agree)} of {own.total} stages verified{differ}")
    refresh(root)
    return 1 if wrong or not compared else 0


def _comparable(root: Path, nodes: list[dag.Node], console: Console) -> Iterator[dag.Node]:
    """Stages whose command, parameters and code are those that dvc.lock recorded; says the rest."""
    changed = repro.changes(root)
    papers = {node.paper for node in nodes}
    timed = {paper: verified.timed_stages(root, paper) for paper in papers}
    lock = {paper: recorded.entries(root, paper) for paper in papers}
    for node in nodes:
        if node.stage in timed[node.paper]:
            continue
        if node.name not in lock[node.paper]:
            console.print(f"{node.paper}:{node.name}: left out, never ran here")
        elif edited := list(_edited(node, changed.get(node.address, []))):
            console.print(f"{node.paper}:{node.name}: left out, changed: {', '.join(edited)}")
        else:
            yield node


def _edited(node: dag.Node, changes: list[Any]) -> Iterator[str]:
    """What of a stage itself is not what dvc.lock recorded: its inputs are taken from there."""
    for change in changes:
        if not isinstance(change, Mapping):
            yield str(change)
            continue
        if "changed command" in change:
            yield "its command"
        for dep, state in change.get("changed deps", {}).items():
            if isinstance(state, Mapping):
                yield from state
            elif dep in node.code:
                yield dep


def _within(
    root: Path,
    nodes: list[dag.Node],
    values: dict[str, Any],
    budget: float | None,
    console: Console,
) -> list[dag.Node]:
    """The stages that fit the budget, in the order of `nodes`."""
    known = {node: receipts.read(root, node) for node in nodes}
    cost = {n: own["cpu_seconds"] + START_SECONDS for n, own in known.items() if own}
    if unknown := len(nodes) - len(cost):
        left_out = " and is left out" if budget is not None else ""
        console.print(f"what {unknown} stages take is not known from a receipt{left_out}")
    if budget is None:
        console.print(f"{len(nodes)} stages, about {sum(cost.values()) / 60:.0f} min")
        return nodes
    current = {paper: verified.current(root, paper) for paper in {n.paper for n in nodes}}
    done = {n for n in nodes if n.name in current[n.paper]}
    claims = backing(root, nodes, values)
    left, taken = budget, []
    for node in sorted(cost, key=lambda n: (n in done, -claims[n.address], cost[n])):
        if cost[node] <= left:
            left -= cost[node]
            taken.append(node)
    if not taken:
        cheapest = min(cost.values(), default=0.0)
        raise UserError(f"no stage fits --budget: the shortest takes about {cheapest:.0f} s")
    spent = (budget - left) / 60
    most = max(claims[node.address] for node in taken)
    console.print(
        f"{len(taken)} of {len(nodes)} stages within the budget, about {spent:.0f} min; "
        f"up to {most} claims rest on each"
    )
    return [node for node in nodes if node in taken]


def _lay(root: Path, tree: Path, cache: Path) -> None:
    """A clean copy of the tree with its dvc.lock files and nothing that a stage made."""
    remove(tree)
    make_tree(root, "desk", tree, cache.parent.parent)
    for paper in dag.papers(root):
        lock = root / "pipelines" / paper / "dvc.lock"
        if lock.is_file():
            shutil.copyfile(lock, tree / "pipelines" / paper / "dvc.lock")
    environment.fingerprint(tree)


def _last_first(nodes: list[dag.Node]) -> Iterator[dag.Node]:
    """Another order than DVC's: the last of those that stand on none of the others."""
    left = list(nodes)
    while left:
        made = {n: [out for m in left if m is not n for out in m.outs] for n in left}
        free = [n for n in left if not any(recorded.overlap(d, o) for d in n.deps for o in made[n])]
        left.remove(free[-1])
        yield free[-1]


def _again(
    tree: Path, cache: Path, node: dag.Node, entry: Mapping[str, Any], nodes: list[dag.Node]
) -> dict[str, Any]:
    """Run one stage on its recorded inputs and compare what it gives."""
    inputs = {d["path"]: d["md5"] for d in entry["deps"] if d["path"] in node.data}
    if lacking := _fetch(tree, inputs, nodes):
        return {"outcome": "no input", "differing": lacking}
    env = {**os.environ, "PYTHONHASHSEED": SEED, "RETORT_TRACKING": "off"}
    words = [sys.executable, *command(node).split()[1:]]
    if code := child.run(words, tree, env):
        return {"outcome": "failed", "differing": [f"exit code {code}"]}
    differing: list[str] = []
    other = False
    for out in entry["outs"]:
        now = recorded.files_now(tree / out["path"])
        if recorded.hash_of(now) != out["md5"]:
            then = recorded.files(cache, out["md5"])
            differing += _differing(out["path"], now, then)
            other = True
    if not other:
        return {"outcome": "same", "differing": []}
    if _same_environment(tree, entry):
        return {"outcome": "differs", "differing": differing}
    judged = {path: _close(tree, cache, path, entry) for path in differing}
    if beyond := [path for path, close in judged.items() if close is False]:
        return {"outcome": "differs", "differing": beyond}
    # Of pictures, say, other bytes say nothing.
    some = any(judged.values()) and "close"
    return {"outcome": some or "not comparable", "differing": differing}


def _fetch(tree: Path, inputs: Mapping[str, str], nodes: list[dag.Node]) -> list[str]:
    """Take inputs that are not there as recorded from DVC's cache; give those it lacks."""

    def wrong() -> list[str]:
        return [p for p, h in inputs.items() if recorded.hash_of(recorded.files_now(tree / p)) != h]

    first = wrong()
    makers = {n.address for n in nodes for out in n.outs for p in first if recorded.overlap(p, out)}
    if makers:
        for path in first:
            remove(tree / path)
        words = [sys.executable, "-m", "dvc", "checkout", "--quiet", *sorted(makers)]
        subprocess.run(words, cwd=tree, capture_output=True, check=False)
    return wrong()


def _differing(out: str, now: Mapping[str, str], then: Mapping[str, str] | None) -> list[str]:
    """Files of an output that differ; the output itself where the cache lacks the recorded list."""
    if then is None:
        return [out]
    names = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
    return [f"{out}/{name}".rstrip("/") for name in names]


def _same_environment(tree: Path, entry: Mapping[str, Any]) -> bool:
    """Whether the recorded run had this instruction set and these numeric packages."""
    then = next((d["md5"] for d in entry["deps"] if d["path"] == dag.ENVIRONMENT), None)
    return then == recorded.hash_of(recorded.files_now(tree / dag.ENVIRONMENT))


def _close(tree: Path, cache: Path, path: str, entry: Mapping[str, Any]) -> bool | None:
    """Whether the numbers of a differing file agree with the recorded one's; None where it has
    none, or the recorded file is not to be had."""
    out = next(o for o in entry["outs"] if recorded.overlap(path, o["path"]))
    then = recorded.files(cache, out["md5"]) or {}
    md5 = then.get(path.removeprefix(out["path"]).lstrip("/"))
    if md5 is None or not (tree / path).is_file():
        return False
    if not recorded.stored(cache, md5).is_file():
        return None
    return alike(tree / path, recorded.stored(cache, md5), path)


def _told(outcome: Mapping[str, Any]) -> str:
    names = outcome["differing"]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    told = {
        "same": "same bytes",
        "close": "the same within the tolerance, on another instruction set or other packages",
        "differs": "[bold red]differs[/]: first",
        "failed": "[bold red]failed[/]:",
        "not comparable": "not verified, other bytes on another instruction set or packages:",
        "no input": "not verified, DVC's cache lacks (`dvc pull`?)",
    }[outcome["outcome"]]
    if outcome["outcome"] in verified.GOOD:
        return told
    return f"{told} {', '.join(names[:SHOWN])}{more}"
