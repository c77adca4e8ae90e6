"""Other profiles than desk, each in a kept working tree of its own.

`work/.profiles/<name>` holds a copy of the tree whose params.yaml has the papers' overlays laid
over it. It shares DVC's cache and the downloads, so the user's params.yaml is never touched, what
is equal is not computed twice, and a killed run resumes.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from stages.core import child, dag
from stages.core.errors import UserError
from stages.core.files import remove, replacing, write_text
from stages.core.params import merge, read_yaml

OWN = (
    "work/",
    "reports/",
    "receipts/",
    "mlartifacts/",
    "mlflow.db",
    ".dvc/tmp",
    ".dvc/cache",
    ".dvc/config.local",
)
"""What a profile's tree makes itself and keeps."""
SHARED = ("work/.downloads", "data")
"""Folders that a profile's tree has from the user's: downloads, and data of the user's own."""
DEVICE = {"lab": "auto", "paper": "auto"}
"""Profiles meant for a GPU where there is one."""


def overlay_path(root: Path, paper: str, profile: str) -> Path:
    return root / "pipelines" / paper / f"{profile}.yaml"


def overlaid(root: Path, profile: str) -> tuple[dict[str, Any], list[str]]:
    """params.yaml with every paper's overlay for `profile` laid over it.

    Returns:
        The values, and the papers that have such an overlay (all of them at desk).

    Raises:
        UserError: no paper has one, or an overlay is not valid YAML.
    """
    values = read_yaml(root / "params.yaml")
    if profile == "desk":
        return values, dag.papers(root)
    there = [p for p in dag.papers(root) if overlay_path(root, p, profile).is_file()]
    if not there:
        raise UserError(f"no paper has a {profile}.yaml")
    for paper in there:
        overlay = read_yaml(overlay_path(root, paper, profile)) or {}
        for part in reversed(dag.section(paper).split(".")):
            overlay = {part: overlay}
        values = merge(values, overlay)
    common = {"profile": profile, "device": DEVICE.get(profile, values["common"]["device"])}
    return merge(values, {"common": common}), there


def make_tree(root: Path, profile: str, tree: Path, cache: Path) -> list[str]:
    """Bring the working tree of `profile` up to date; give the papers that it runs."""
    values, there = overlaid(root, profile)
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-coz", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        raise UserError(
            f"a profile's tree is copied by git's list of files: {listed.stderr.strip()}"
        )
    names = {
        n
        for n in listed.stdout.split("\0")
        if n and (root / n).is_file() and not n.startswith(OWN) and not n.endswith("dvc.lock")
    }
    for name in sorted(names - {"params.yaml"}):
        source, target = root / name, tree / name
        if not target.is_file() or not filecmp.cmp(source, target, shallow=False):
            with replacing(target) as temporary:
                shutil.copy2(source, temporary)
    for path in sorted(tree.rglob("*")):
        name = path.relative_to(tree).as_posix()
        kept = name.startswith(OWN) or name.endswith("dvc.lock") or "__pycache__" in name
        if path.is_file() and not kept and name not in names:
            remove(path)
    write_text(tree / "params.yaml", yaml.safe_dump(values, sort_keys=False))
    write_text(
        tree / ".dvc/config.local", f"[core]\n    no_scm = true\n[cache]\n    dir = {cache}\n"
    )
    (root / "work/.downloads").mkdir(parents=True, exist_ok=True)
    (tree / "work").mkdir(exist_ok=True)
    for shared in SHARED:
        if (root / shared).is_dir() and not (tree / shared).is_symlink():
            (tree / shared).symlink_to(root / shared)
    (tree / "receipts").mkdir(exist_ok=True)
    (tree / "reports/papers").mkdir(parents=True, exist_ok=True)
    return there


def run_profile(root: Path, profile: str, papers: list[str], jobs: int) -> int:
    """Run a profile's papers in its tree, `jobs` stages at a time; board and report lie there."""
    tree = root / "work/.profiles" / profile
    there = make_tree(root, profile, tree, root / ".dvc/cache")
    for paper in papers:
        if paper not in there:
            raise UserError(f"'{paper}' has no {profile}.yaml; allowed: {', '.join(there)}")
    words = [word for paper in papers or there for word in ("--paper", paper)]
    words += ["--jobs", str(jobs)]
    print(f"profile {profile} in {tree.relative_to(root)}", flush=True)
    return child.run([sys.executable, "-m", "stages", "repro", *words], tree)
