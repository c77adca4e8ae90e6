"""`python -m stages track`: sends to MLflow what is not there yet.

Three things can be missing: spools that were kept while the server was away; runs of stages that
DVC restored from its cache, which therefore never ran here; and the hashes of outputs, which DVC
knows only when a stage is over.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from stages.core import dag, receipts
from stages.core.files import listing, read_json, write_json
from stages.core.params import read_yaml
from stages.core.tracking import sender
from stages.core.tracking.address import server_name
from stages.core.tracking.drain import Drain, ServerAway
from stages.core.tracking.locks import held
from stages.core.tracking.mlflow_sink import MlflowSink
from stages.core.tracking.spool import Tracker, home, key_of

PATIENCE = 60.0
"""Seconds to wait for another `track` to end."""


def track(root: Path, console: Console) -> int:
    """Send what is missing; may be repeated at will.

    Returns:
        0, or 1 where the server is away (nothing is lost then).
    """
    sender.quiesce(root)
    try:
        with held(home(root) / "lock", PATIENCE) as mine, _logged(root):
            if not mine:
                console.print("tracking: another `python -m stages track` is at work")
                return 1
            return _track(root, console)
    finally:
        sender.resume(root)


def _track(root: Path, console: Console) -> int:
    sink: list[MlflowSink] = []

    def connect() -> MlflowSink:
        sink[:] = [MlflowSink(root)]
        return sink[0]

    server, drain = server_name(root), Drain(root, connect)
    try:
        drain.empty()
        sent = drain.ended
        drain.connected()
        restored, hashed = _catch_up(root, drain, sink)
    except ServerAway as error:
        kept = len(list(home(root).glob("*.jsonl")))
        write_json(home(root) / "status.json", {"server": server, "why": str(error)})
        console.print(
            f"tracking: server away ({server}: {error}), {kept} runs kept; "
            "the same command sends them when it is back",
            markup=False,
        )
        return 1
    (home(root) / "status.json").unlink(missing_ok=True)
    console.print(
        f"tracking: {sent} runs sent, {restored} written from results that are here, "
        f"{hashed} given the hashes of their outputs, in {server}",
        markup=False,
    )
    if drain.left_out:
        console.print(f"tracking: {drain.left_out} lines refused, see work/.logs/tracking.log")
    return 0


def _catch_up(root: Path, drain: Drain, sink: list[MlflowSink]) -> tuple[int, int]:
    """Write the runs that MLflow lacks and the hashes that DVC knows; count both."""
    values = read_yaml(root / "params.yaml")
    restored = hashed = 0
    for paper in dag.papers(root):
        lock = root / "pipelines" / paper / "dvc.lock"
        entries = read_yaml(lock).get("stages", {}) if lock.is_file() else {}
        for node in dag.nodes(root, paper, values):
            key = _made_by(root, node) if node.name in entries else None
            if key is None or (home(root) / f"{key}.jsonl").exists():
                continue
            found = sink[0].find(paper, key)
            if found is None or found[1] != "FINISHED":
                _restore(root, node, entries[node.name], key)
                drain.empty()
                found = sink[0].find(paper, key)
                restored += 1
            hashes = _hashes(root, entries[node.name])
            if found and not hashes.items() <= found[2].items():
                sink[0].tag(found[0], hashes)
                hashed += 1
    return restored, hashed


def _made_by(root: Path, node: dag.Node) -> str | None:
    """Key of the run whose output is here now; None where there is no output."""
    if node.stage in dag.REPORTED:
        receipt = receipts.read(root, node)
        there = all((root / out).exists() for out in node.outs)
        return str(receipt["key"]) if receipt and there else None
    path = root / node.folder / "provenance.json"
    return key_of(read_json(path)) if path.is_file() else None


def _restore(root: Path, node: dag.Node, entry: dict[str, Any], key: str) -> None:
    """Spool the run of a stage from its output, its lock entry and, if it fits, its receipt."""
    receipt = receipts.read(root, node) or {}
    receipt = receipt if receipt.get("key") == key else {}
    made = receipt or read_json(root / node.folder / "provenance.json")
    tags = receipts.tags(node, made)
    if node.stage not in dag.REPORTED:  # those are always written from here, restored or not
        tags["restored"] = "true"
    tracker = Tracker.open(
        root,
        key=key,
        paper=node.paper,
        stage=node.stage,
        variant=node.variant,
        seeds=node.seeds,
        params=entry.get("params", {}).get("params.yaml", {}),
        tags=tags,
        inputs=[path for path in node.data if (root / path).exists()],
    )
    for out in node.outs:
        path = root / out
        tracker.results(path, path.name if path.is_dir() and node.stage in dag.REPORTED else "")
    tracker.close("FINISHED")


def _hashes(root: Path, entry: dict[str, Any]) -> dict[str, str]:
    """DVC's hashes of the outputs, as tags; those left out that are not what lies here."""
    found = {}
    for out in entry.get("outs", []):
        path = root / out["path"]
        files = listing(path) if path.is_dir() else [path] if path.is_file() else []
        if sum(f.stat().st_size for f in files) == out.get("size"):
            found[f"dvc.out.{out['path']}"] = str(out.get("md5", ""))
    return found


@contextmanager
def _logged(root: Path) -> Iterator[None]:
    """Write what goes wrong to the sender's log instead of the terminal."""
    path, log = root / "work/.logs/tracking.log", logging.getLogger("retort.tracking")
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(sender.FORMAT))
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
