"""What dvc.yaml says of a stage: the one place where its inputs are listed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.params import read_yaml

ENVIRONMENT = "work/environment.json"
DEVICE = "work/device.json"
LOCK = "data.lock"
REPORTED = {"claims": "stages.claims.stage", "page": "stages.report.stage"}
"""Stages that every paper has in the same form, and the modules that hold their code."""


@dataclass(frozen=True)
class Node:
    """A stage of one paper as its dvc.yaml lists it.

    Attributes:
        params: keys of params.yaml.
        packages: keys of data.lock; so another paper's new package re-runs nothing here.
    """

    paper: str
    stage: str
    variant: str | None
    seeds: str | None
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]
    packages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """DVC's name of the stage, `prune@random-0-2`."""
        parts = [p for p in (self.variant, self.seeds) if p is not None]
        return f"{self.stage}@{'-'.join(parts)}" if parts else self.stage

    @property
    def address(self) -> str:
        return f"pipelines/{self.paper}/dvc.yaml:{self.name}"

    @property
    def folder(self) -> str:
        """Where its output goes, from the root."""
        parts = [p for p in (self.variant, self.seeds) if p is not None]
        return "/".join(["work", self.paper, self.stage, *parts])

    @property
    def code(self) -> tuple[str, ...]:
        """The deps that are code or committed text."""
        return tuple(d for d in self.deps if not self._is_data(d))

    @property
    def data(self) -> tuple[str, ...]:
        """The deps that earlier stages made."""
        return tuple(d for d in self.deps if self._is_data(d) and d != ENVIRONMENT)

    @staticmethod
    def _is_data(dep: str) -> bool:
        return dep.startswith(("work/", "reports/"))

    def input_folder(self, name: str) -> str | None:
        """The dep that holds the output of stage `name` (or `foundations/<f>/<stage>`)."""
        wanted = f"work/{name}" if "/" in name else f"work/{self.paper}/{name}"
        return wanted if wanted in self.deps else None


def papers(root: Path) -> list[str]:
    """Folders below pipelines/ that hold a dvc.yaml, foundations last."""
    base = root / "pipelines"
    found = [p.parent.relative_to(base).as_posix() for p in sorted(base.glob("*/dvc.yaml"))]
    shared = sorted(base.glob("foundations/*/dvc.yaml"))
    return found + [p.parent.relative_to(base).as_posix() for p in shared]


def section(paper: str) -> str:
    """The paper's section of params.yaml."""
    return paper.replace("/", ".")


def pipeline(root: Path, paper: str) -> dict[str, Any]:
    """The stages of a paper's dvc.yaml, matrices unexpanded.

    Raises:
        UserError: there is no such paper.
    """
    path = root / "pipelines" / paper / "dvc.yaml"
    if not path.is_file():
        raise UserError(f"unknown paper '{paper}'; allowed: {', '.join(papers(root))}")
    return dict(read_yaml(path)["stages"])


def node(
    root: Path, paper: str, stage: str, variant: str | None = None, seeds: str | None = None
) -> Node:
    """Look a stage up.

    Raises:
        UserError: unknown paper or stage, or a variant given where none is taken.
    """
    stages = pipeline(root, paper)
    if stage not in stages:
        raise UserError(f"unknown stage '{stage}' of {paper}; allowed: {', '.join(stages)}")
    return _expanded(paper, stage, stages[stage], variant, seeds)


def _expanded(
    paper: str, stage: str, entry: dict[str, Any], variant: str | None, seeds: str | None
) -> Node:
    """One cell of a stage's matrix."""
    has = set(entry.get("matrix", {}))
    for key, value in (("variant", variant), ("seeds", seeds)):
        if (value is None) == (key in has):
            verb = "needs" if value is None else "takes no"
            where = f"; allowed: the {key} of '{section(paper)}.{stage}' in params.yaml"
            raise UserError(f"{paper} {stage} {verb} --{key}{where if value is None else ''}")
    item = {"variant": variant or "", "seeds": seeds or ""}

    def filled(texts: list[Any]) -> tuple[str, ...]:
        plain = [next(iter(t)) if isinstance(t, dict) else t for t in texts]
        return tuple(re.sub(r"\$\{item\.(\w+)\}", lambda m: item[m[1]], t) for t in plain)

    return Node(
        paper,
        stage,
        variant,
        seeds,
        deps=filled(entry.get("deps", [])),
        params=filled(_keys_of("params.yaml", entry.get("params", []))),
        outs=filled(entry.get("outs", [])),
        packages=filled(_keys_of(LOCK, entry.get("params", []))),
    )


def _keys_of(file: str, entries: list[dict[str, list[str]]]) -> list[str]:
    """The keys of one file that a stage's `params:` lists."""
    return [key for entry in entries for key in entry.get(file, [])]


def nodes(root: Path, paper: str, values: dict[str, Any]) -> list[Node]:
    """All stages of a paper in the order of its dvc.yaml, matrices expanded."""
    from stages.core.params import lookup

    found = []
    for stage, entry in pipeline(root, paper).items():
        matrix = entry.get("matrix", {})
        axes: dict[str, list[str | None]] = {"variant": [None], "seeds": [None]}
        for axis, source in matrix.items():
            path = re.fullmatch(r"\$\{(.+)\}", source) if isinstance(source, str) else None
            axes[axis] = list(lookup(values, path[1]) if path else source)
        for variant in axes["variant"]:
            found += [_expanded(paper, stage, entry, variant, seeds) for seeds in axes["seeds"]]
    return found


def seed_range(text: str) -> tuple[int, ...]:
    """Seeds of a range such as "0-2" or "1".

    Raises:
        UserError: the text is neither.
    """
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not match or int(match[2] or match[1]) < int(match[1]):
        raise UserError(f"seeds '{text}': write a number such as 1 or a range such as 0-2")
    return tuple(range(int(match[1]), int(match[2] or match[1]) + 1))
