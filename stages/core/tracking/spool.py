"""What a stage has to tell the tracking server, kept as lines in a file.

A stage never waits for a server: it appends to `work/.spool/<key>.jsonl`, and one process in the
background (sender.py) passes the lines on. Each line is one system call, so a stage that is killed
at any moment leaves whole lines behind, and the lock that it holds on its file tells the sender
whether it still lives.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stages.core import digests
from stages.core.files import listing, read_json, write_bytes
from stages.core.tracking.locks import open_locked

DENSE = 250
"""Points of a curve that are sent as they come. Each further 250 are taken at half the rate."""
LARGEST = 64 * 2**20
"""Bytes of the largest file that is sent: the sender needs a copy, and DVC keeps the file."""
RESULT_FILES = {".csv", ".html", ".json", ".parquet", ".png", ".svg", ".wav"}
PATIENCE = 1.0
"""Seconds to wait for the sender to let go of a spool file; it holds one for microseconds."""


def home(root: Path) -> Path:
    """The folder of spools below a project's root."""
    return root / "work/.spool"


def key_of(provenance: Mapping[str, Any]) -> str:
    """The key of the run that made a folder, from the folder's provenance.json."""
    return digests.of_value({k: v for k, v in provenance.items() if k != "command"})


def _never_raises(method: Callable[..., None]) -> Callable[..., None]:
    """Tracking must not fail a stage: the error is kept for the door to log."""

    @functools.wraps(method)
    def guarded(self: Tracker, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"

    return guarded


class _Series:
    """How many points of one curve were offered and kept, and the last one left out."""

    def __init__(self) -> None:
        self.offered, self.kept = 0, 0
        self.left_out: dict[str, Any] | None = None


class Tracker:
    """A stage's way to the tracking server; `job.track`. Its methods are cheap and never raise.

    Attributes:
        error: the last thing that went wrong, or None.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self._file: int | None = None
        self._copies = Path()
        self._series: dict[tuple[str, int | None], _Series] = {}

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        key: str,
        paper: str,
        stage: str,
        variant: str | None,
        seeds: str | None,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        inputs: Iterable[str] = (),
    ) -> Tracker:
        """Begin a run, or go on with the one of the same key that was killed.

        Args:
            root: the project's root.
            key: digest of all that can change the output; one run in MLflow for each.
            paper: MLflow's experiment.
            stage: with `variant` and `seeds`, the run's name.
            variant: None where the stage has none.
            seeds: range of seeds such as "0-2", or None.
            params: parameters by dotted name; values may be nested.
            tags: sent with "retort." before each name. `commit` and `dvc_stage` also fill
                MLflow's own columns.
            inputs: paths, from the root, that the stage reads as data; each becomes a data set
                whose digest is the key of the run that made it.
        """
        tracker = cls()
        tracker._begin(
            root,
            {
                "e": "open",
                # Tells a run that is executed again from lines that are sent again.
                "attempt": f"{time.time_ns()}-{os.getpid()}",
                "key": key,
                "paper": paper,
                "stage": stage,
                "variant": variant,
                "seeds": seeds,
                "params": dict(params),
                "tags": {k: str(v) for k, v in tags.items()},
            },
            inputs,
        )
        return tracker

    @_never_raises
    def _begin(self, root: Path, event: dict[str, Any], inputs: Iterable[str]) -> None:
        folder = home(root)
        folder.mkdir(parents=True, exist_ok=True)
        self._copies = folder / f"{event['key']}.files"
        self._file = open_locked(folder / f"{event['key']}.jsonl", PATIENCE)
        self._write(event)
        for path in inputs:
            self.dataset(path, _input_digest(root / path), path)

    def _write(self, event: dict[str, Any]) -> None:
        if self._file is None:
            return
        event.setdefault("t", time.time_ns() // 1_000_000)
        line = json.dumps(event, separators=(",", ":"), default=str)
        os.write(self._file, line.encode() + b"\n")

    @_never_raises
    def metric(
        self, name: str, value: float, step: int | None = None, seed: int | None = None
    ) -> None:
        """Send a number; with `seed`, to the child run of that seed.

        Long curves are thinned: 250 points as they come, then every second one for 250 points,
        every fourth, and so on; the last point is always sent.

        Args:
            name: "/" groups curves.
            value: a number, or a tensor of one element.
            step: the place on the curve; counted when None.
            seed: None for the run itself.
        """
        if self._file is None:
            return
        series = self._series.setdefault((name, seed), _Series())
        place = series.offered if step is None else int(step)
        event = {"e": "metric", "n": name, "v": float(value), "s": place, "seed": seed}
        if series.offered % (1 << (series.kept // DENSE)) == 0:
            self._write(event)
            series.kept += 1
            series.left_out = None
        else:
            series.left_out = {**event, "t": time.time_ns() // 1_000_000}
        series.offered += 1

    @_never_raises
    def picture(self, path: Path) -> None:
        """Send a picture file."""
        self._send_file(path, "pictures")

    @_never_raises
    def model(self, name: str, onnx_path: Path) -> None:
        """Send a network as ONNX file; signature and input example are read from the file."""
        self._send_file(onnx_path, name, kind="model")

    @_never_raises
    def dataset(self, name: str, digest: str, source: str) -> None:
        """Name a data set that the stage reads, with its digest and where it comes from."""
        self._write({"e": "dataset", "n": name, "d": digest, "source": source})

    @_never_raises
    def results(self, path: Path, under: str = "") -> None:
        """Send the result files of a finished stage: tables, curves, pictures, metrics.json.

        Learning curves (`curve.csv`) are also sent as curves where the stage sent none itself.

        Args:
            path: the stage's output, a folder or a file.
            under: folder for them among the run's artifacts.
        """
        if self._file is None:
            return
        base, files = (path, listing(path)) if path.is_dir() else (path.parent, [path])
        live = bool(self._series)
        for file in (f for f in files if f.suffix in RESULT_FILES):
            inside = file.relative_to(base)
            self._send_file(file, (Path(under) / inside.parent).as_posix())
            if inside.as_posix() == "metrics.json":
                for name, value in flatten(read_json(file)):
                    self.metric(name, value, step=0)
            elif file.name == "curve.csv" and not live:
                self._curve(file, inside.parent.parts)

    def _curve(self, path: Path, folders: tuple[str, ...]) -> None:
        seeds = [int(m[1]) for f in folders if (m := re.fullmatch(r"seed(\d+)", f))]
        name = "/".join(f for f in folders if not re.fullmatch(r"seed\d+", f))
        with path.open(newline="") as opened:
            for row in csv.DictReader(opened):
                # A network quantized block by block has a curve for each, counted in epochs.
                step = row.pop("step", None) or row.pop("epoch")
                block = row.pop("block", "")
                for column, text in row.items():
                    label = "/".join(part for part in (name, block, column) if part)
                    own = seeds[0] if seeds else None
                    self.metric(label, float(text), int(float(step)), own)

    @_never_raises
    def close(self, status: str, message: str = "") -> None:
        """End the run as FINISHED, FAILED or KILLED. Later calls do nothing."""
        if self._file is None:
            return
        for series in self._series.values():
            if series.left_out:
                self._write(series.left_out)
        self._write({"e": "close", "status": status, "message": message[:1000]})
        os.close(self._file)
        self._file = None

    def _send_file(self, path: Path, to: str, kind: str = "file") -> None:
        """Copy a file beside the spool (the stage's folder may be gone when it is sent)."""
        if self._file is None:
            return
        if path.stat().st_size > LARGEST:
            self._write({"e": "tags", "tags": {f"not_sent.{path.name}": path.stat().st_size}})
            return
        data = path.read_bytes()
        copy = self._copies / hashlib.sha256(data).hexdigest()[:16] / path.name
        if not copy.is_file():
            write_bytes(copy, data)
        event = {"e": kind, "file": copy.relative_to(self._copies).as_posix()}
        self._write({**event, "n" if kind == "model" else "to": to})


class NullTracker(Tracker):
    """A tracker that keeps nothing."""


def flatten(value: Any, name: str = "", joint: str = "/") -> list[tuple[str, Any]]:
    """Leaves of a nested dict with their joined names, in the dict's order."""
    if not isinstance(value, Mapping):
        return [(name, value)]
    pairs: list[tuple[str, Any]] = []
    for key, child in value.items():
        pairs += flatten(child, f"{name}{joint}{key}" if name else str(key), joint)
    return pairs


def _input_digest(path: Path) -> str:
    """Key of the run that made `path`; for a folder of several runs, the digest of their keys."""
    if path.is_file():
        return digests.of_file(path)[: digests.LENGTH]
    made = [path / "provenance.json"]
    if not made[0].is_file():  # the folder of all variants of a stage
        made = sorted([*path.glob("*/provenance.json"), *path.glob("*/*/provenance.json")])
    keys = [key_of(read_json(file)) for file in made]
    return keys[0] if len(keys) == 1 else digests.of_value(keys)
