"""What can be said of params.yaml before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.core import dag
from stages.core.errors import UserError
from stages.core.params import Common, build, lookup
from stages.core.recorded import overlap


def refuse_wrong_matrices(root: Path, values: dict[str, Any], papers: Iterable[str]) -> None:
    """Refuse variants and ranges of seeds that cannot be names of stages, such as `seeds: [0, 1]`.

    Raises:
        UserError: names the key, what stands there, and the form that it needs.
    """
    for paper in papers:
        for entry in dag.pipeline(root, paper).values():
            for axis, source in entry.get("matrix", {}).items():
                path = re.fullmatch(r"\$\{(.+)\}", source) if isinstance(source, str) else None
                if path:
                    _refuse_cells(axis, path[1], lookup(values, path[1]))


def _refuse_cells(axis: str, key: str, cells: Any) -> None:
    fits = isinstance(cells, list | dict) and all(isinstance(cell, str) for cell in cells)
    if cells and fits:
        return
    form = 'a list of texts, as in ["0-2"]' if axis == "seeds" else "a mapping, {name: {…}}"
    raise UserError(
        f"params.yaml: {key} is {cells!r}; its entries become names of stages: write {form}"
    )


def refuse_missing_makers(root: Path, values: dict[str, Any]) -> None:
    """Refuse a variant whose input no stage makes, since it stands under one stage's key alone.

    Raises:
        UserError: names each stage, what it reads, and what is made there.
    """
    nodes = [node for paper in dag.papers(root) for node in dag.nodes(root, paper, values)]
    made = [out for node in nodes for out in node.outs]
    wrong: dict[str, None] = {}
    for node in nodes:
        for dep in node.data:
            if dep == dag.DEVICE or any(overlap(dep, out) for out in made):
                continue
            home, _, missing = dep.rpartition("/")
            there = sorted({o[len(home) + 1 :].split("/")[0] for o in made if overlap(home, o)})
            wrong[
                f"params.yaml: {node.paper} {node.name} reads {dep}, and no stage makes "
                f"'{missing}' in {home}; made there: {', '.join(there) or 'nothing'}"
            ] = None
    if wrong:
        raise UserError("\n".join(wrong))


def refuse_unread_keys(root: Path, values: dict[str, Any]) -> None:
    """Refuse keys that no stage reads: DVC does not track them, so a slip would change nothing.

    Raises:
        UserError: names each such key and what stands beside it that is read.
    """
    read = {f"common.{name}" for name in Common.model_fields}
    for paper in dag.papers(root):
        read |= {key for node in dag.nodes(root, paper, values) for key in node.params}
        text = (root / "pipelines" / paper / "dvc.yaml").read_text(encoding="utf-8")
        read |= set(re.findall(r"\$\{((?!item\.)[\w.]+\.seeds)\}", text))
    if wrong := list(_unread(values, "", read)):
        raise UserError("\n".join(wrong))


def _unread(values: dict[str, Any], path: str, read: set[str]) -> Iterable[str]:
    for name, value in values.items():
        key = f"{path}{name}"
        if key in read or value == {}:
            continue
        if isinstance(value, dict) and any(other.startswith(f"{key}.") for other in read):
            yield from _unread(value, f"{key}.", read)
            continue
        beside = {k.removeprefix(path).split(".")[0] for k in read if k.startswith(path)}
        yield f"params.yaml: no stage reads '{key}'; allowed: {', '.join(sorted(beside))}"


def refuse_wrong_values(values: dict[str, Any], plan: list[dag.Node]) -> None:
    """Build the parameters of every stage that is to run, so that the last one's slips are told
    before the first one starts.

    Raises:
        UserError: as `build`; all of them, a line each.
    """
    from stages.core import door

    found: dict[str, None] = {}
    for node in plan:
        try:
            model = door.load_stage(node.paper, node.stage).Params
        except UserError:
            continue  # lacks a package: the stage itself will say so, and other papers go on
        try:
            build(model, values, dag.section(node.paper), node.stage, node.variant)
        except UserError as error:
            found[str(error)] = None
    if found:
        raise UserError("\n".join(found))
