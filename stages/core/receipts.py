"""Receipts: what each run cost and what it came from. Tracked by git, beside the results."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.core import digests
from stages.core.dag import LOCK, Node
from stages.core.files import read_json, write_json
from stages.core.params import lookup, read_yaml


def path_of(root: Path, node: Node) -> Path:
    return root / "receipts" / node.paper / f"{node.name}.json"


def write(root: Path, node: Node, receipt: dict[str, Any]) -> None:
    write_json(path_of(root, node), receipt)


def read(root: Path, node: Node) -> dict[str, Any] | None:
    """The newest receipt of a stage, or None."""
    path = path_of(root, node)
    return read_json(path) if path.is_file() else None


def data(root: Path, node: Node) -> str:
    """Digest of what a stage reads: earlier stages' outputs, and packages that carry data."""
    paths = digests.of_paths(root, node.data)
    if not node.packages:
        return paths
    lock = read_yaml(root / LOCK)
    return digests.of_value([paths, {key: lookup(lock, key, LOCK) for key in node.packages}])


def tags(node: Node, about: Mapping[str, Any]) -> dict[str, str]:
    """What the tracking server is told of a run beside its parameters, from a receipt (or, without
    commit, device and versions, from a provenance.json)."""
    plain = ("code", "data", "params", "environment", "commit", "profile")
    found = {"dvc_stage": node.address, **{n: str(about[n]) for n in plain if n in about}}
    if "dirty" in about:
        found["dirty"] = str(about["dirty"]).lower()
    found |= {f"device.{k}": str(v) for k, v in about.get("device", {}).items()}
    return found | {f"version.{k}": str(v) for k, v in about.get("versions", {}).items()}


def commit(root: Path) -> tuple[str, bool]:
    """The commit checked out at `root` and whether the tree differs from it ("", True: no git)."""
    asked = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "-unormal"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "", True
    lines = answer.splitlines()
    oid = next((x.split()[-1] for x in lines if x.startswith("# branch.oid")), "")
    # What a run itself writes (reports, receipts, lock files) does not make its code dirty.
    changed = [x.split()[-1] for x in lines if not x.startswith("#")]
    own = ("reports/", "receipts/", "README.md")
    return oid, any(not c.startswith(own) and not c.endswith("dvc.lock") for c in changed)
