"""How many claims stand on each stage: what is worth verifying first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.core import dag
from stages.core.params import read_yaml
from stages.core.recorded import overlap


def backing(root: Path, nodes: list[dag.Node], values: dict[str, Any]) -> dict[str, int]:
    """Address -> the number of claims that rest on that stage.

    An arm backs the claims of its paper that name it; a stage that is no arm all claims of every
    paper that stands on it.

    Args:
        nodes: the stages asked about; foundations are counted over all papers.
    """
    found = dict.fromkeys((node.address for node in nodes), 0)
    for paper in dag.papers(root):
        path = root / "pipelines" / paper / "claims.yaml"
        if not path.is_file():
            continue
        parts = ("measure", "cells", "rule")
        claims = read_yaml(path)["claims"]
        names = [{*_words([claim.get(part) for part in parts])} for claim in claims]
        for node in _below(root, paper, values):
            if node.address not in found:
                continue
            arm = node.variant if node.paper == paper else None
            found[node.address] += sum(arm is None or arm in own for own in names)
    return found


def _below(root: Path, paper: str, values: dict[str, Any]) -> list[dag.Node]:
    """The stages that a paper's verdicts stand on, through all others."""
    shared = [p for p in dag.papers(root) if p.startswith("foundations/")]
    order = [n for p in [*shared, paper] for n in dag.nodes(root, p, values)]
    read: list[str] = []
    found = []
    for node in reversed(order):
        is_end = node.paper == paper and node.stage == "claims"
        if is_end or any(overlap(dep, out) for dep in read for out in node.outs):
            found.append(node)
            read += node.data
    return found[::-1]


def _words(value: Any) -> Iterator[str]:
    """Every text in a part of a claim."""
    if isinstance(value, Mapping | list):
        for below in value.values() if isinstance(value, Mapping) else value:
            yield from _words(below)
    elif isinstance(value, str):
        yield value
