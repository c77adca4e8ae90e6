"""A small project with a real DAG in a folder of its own, and what tests do to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
ENV = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "1",
    "RETORT_TRACKING": "off",
}
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def make(folder: Path, git: bool = False) -> Path:
    """Lay the demo project with this checkout's `stages` in `folder`, under DVC."""
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tests/demo", folder, ignore=leave)
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=leave)
    (folder / "pipelines/__init__.py").write_text("")
    shutil.copy(ROOT / ".dvcignore", folder)
    shutil.copy(ROOT / ".gitignore", folder)
    if git:
        run(folder, "git", "init", "-q")
        run(folder, "git", "config", "user.email", "nobody@example.org")
        run(folder, "git", "config", "user.name", "nobody")
    run(folder, "dvc", "init", "-q", *([] if git else ["--no-scm"]))
    return folder


def run(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command there; its output stands in the error of a failed one."""
    done = subprocess.run(
        words, cwd=folder, env={**ENV, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def repro(folder: Path, **env: str) -> str:
    return run(folder, "dvc", "repro", "pipelines/demo/dvc.yaml", **env).stdout


def ran(output: str) -> list[str]:
    """Names of the stages that ran, in order."""
    lines = [x for x in output.splitlines() if x.startswith("Running stage")]
    return [x.split("'")[1].split(":")[-1] for x in lines if "fingerprint" not in x]


def change(folder: Path, path: str, value: object) -> None:
    """Set one key of params.yaml (None deletes it)."""
    file = folder / "params.yaml"
    values = yaml.safe_load(file.read_text())
    *parts, last = path.split(".")
    here = values
    for part in parts:
        here = here[part]
    if value is None:
        del here[last]
    else:
        here[last] = value
    file.write_text(yaml.safe_dump(values, sort_keys=False))


def outputs(folder: Path) -> dict[str, str]:
    """Path -> hash of every output, from dvc.lock."""
    lock = yaml.safe_load((folder / "pipelines/demo/dvc.lock").read_text())
    return {o["path"]: o["md5"] for s in lock["stages"].values() for o in s["outs"]}


def rot(store: Path, original: Path, at: int = 0) -> Path:
    """Change one bit of the stored copy of a file, as a disk may: size, mode and time stay."""
    data = original.read_bytes()
    (copy,) = (f for f in store.rglob("*") if f.is_file() and f.read_bytes() == data)
    was = copy.stat()
    copy.chmod(0o644)
    copy.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    copy.chmod(was.st_mode)
    os.utime(copy, ns=(was.st_atime_ns, was.st_mtime_ns))
    return copy
