"""Runs in MLflow, which only this and `registry` know: an experiment per paper, a run per stage.

Everything here may be done twice: a run is found by its key, a point by run, name and step, so a
spool that was half sent, or is sent again, leaves the same runs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.tracking.address import artifacts, relocate, tracking_uri, why_away
from stages.core.tracking.drain import ServerAway
from stages.core.tracking.onnx_interface import interface, noise
from stages.core.tracking.spool import flatten

KEY = "retort.key"
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # A server that does not answer is found out in seconds; the spool keeps what it missed.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
}


@dataclass
class _Run:
    """A stage's run and its children by seed."""

    id: str
    experiment: str
    attempt: str
    tags: dict[str, str]
    children: dict[int, str] = field(default_factory=dict)
    known: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    """Steps that MLflow holds already, by run and metric."""
    new: set[str] = field(default_factory=set)
    """Runs that this process has made: nothing is known of them that is not in `known`."""
    params: dict[str, str] = field(default_factory=dict)


def experiment(client: Any, root: Path, paper: str) -> str:
    """The id of a paper's experiment, made or brought back where it is not there."""
    found = client.get_experiment_by_name(paper)
    if found and found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if found:
        return str(found.experiment_id)
    home = artifacts(root)
    return str(client.create_experiment(paper, home and f"{home}/{paper}"))


class MlflowSink:
    """Writes events of spools into MLflow.

    Raises:
        ServerAway: the server cannot be reached.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.uri = root.resolve(), tracking_uri(root)
        self._check()
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        relocate(self.root)
        from mlflow.tracking import MlflowClient

        if not self.root.is_dir():  # MLflow would make it anew for its database
            raise ServerAway("the project is gone")
        self.client = MlflowClient(self.uri)
        self.runs: dict[str, _Run] = {}
        self.experiments: dict[str, str] = {}

    def _check(self) -> None:
        if why := why_away(self.uri):
            raise ServerAway(why)

    def send(self, header: dict[str, Any], events: list[dict[str, Any]], files: Path) -> None:
        """Write the events of one run, in order.

        Args:
            header: the run's "open" event.
            events: the events; an "open" event among them begins a further attempt.
            files: folder that the events' file names start from.

        Raises:
            ServerAway: the server has gone; all of `events` must be sent again.
        """
        try:
            points: list[dict[str, Any]] = []
            for event in events:
                if event["e"] == "metric":
                    points.append(event)
                    continue
                self._points(header, points)
                points = []
                if event["e"] == "open":
                    header = event
                getattr(self, f"_on_{event['e']}")(self._run(header), event, files)
            self._points(header, points)
        except Exception:
            self.runs.pop(header["key"], None)
            self._check()
            raise

    def find(self, paper: str, key: str) -> tuple[str, str, dict[str, str]] | None:
        """Id, status and tags of the run of a key, or None.

        Raises:
            ServerAway: the server refuses to tell, as where a password is wrong.
        """
        from mlflow.exceptions import MlflowException

        try:
            run, _ = self._search(self._experiment(paper), key)
        except MlflowException as error:
            raise ServerAway(f"it refuses: {str(error).splitlines()[0]}") from error
        return (run.info.run_id, run.info.status, run.data.tags) if run else None

    def tag(self, run_id: str, tags: dict[str, str]) -> None:
        """Set tags of a run."""
        from mlflow.entities import RunTag

        for chunk in _chunks([RunTag(_name(k), v) for k, v in tags.items()], 100):
            self.client.log_batch(run_id, tags=chunk)

    # Runs

    def _experiment(self, paper: str) -> str:
        if paper not in self.experiments:
            self.experiments[paper] = experiment(self.client, self.root, paper)
        return self.experiments[paper]

    def _search(self, experiment: str, key: str) -> tuple[Any, list[Any]]:
        """The run of a key and its children."""
        found = self.client.search_runs([experiment], f"tags.`{KEY}` = '{key}'")
        parents = [r for r in found if "mlflow.parentRunId" not in r.data.tags]
        children = [r for r in found if "mlflow.parentRunId" in r.data.tags]
        return (parents[0] if parents else None), children

    def _run(self, header: dict[str, Any]) -> _Run:
        """The run that a header speaks of: known, found by its key, or new."""
        known = self.runs.get(header["key"])
        if known and _begun(header["attempt"]) <= _begun(known.attempt):
            return known  # lines of an earlier attempt are lines that are sent again
        experiment = self._experiment(header["paper"])
        found, children = self._search(experiment, header["key"])
        attempt, tags = header["attempt"], _tags(header)
        if found and _begun(attempt) > _begun(last := found.data.tags["retort.attempt"]):
            if found.info.status == "FINISHED":  # executed once more: replaced, not doubled
                for run in [*children, found]:
                    self.client.delete_run(run.info.run_id)
                found = None
            else:  # killed, and goes on
                if "retort.message" in found.data.tags:
                    self.client.delete_tag(found.info.run_id, "retort.message")
                self.tag(found.info.run_id, tags)
                self.client.update_run(found.info.run_id, status="RUNNING")
        elif found:
            attempt = last
        if found:
            run = _Run(found.info.run_id, experiment, attempt, tags, params=found.data.params)
            run.children = {int(c.data.tags["retort.seed"]): c.info.run_id for c in children}
        else:
            made = self.client.create_run(experiment, start_time=header["t"], tags=tags)
            run = _Run(made.info.run_id, experiment, attempt, tags, new={made.info.run_id})
        self.runs[header["key"]] = run
        return run

    def _child(self, run: _Run, seed: int, time: int) -> str:
        if seed not in run.children:
            kept = {k: v for k, v in run.tags.items() if not re.match(r"retort\.(device|vers)", k)}
            own = {"mlflow.parentRunId": run.id, "retort.seed": str(seed)}
            own["mlflow.runName"] = f"{run.tags['mlflow.runName']} seed {seed}"
            made = self.client.create_run(run.experiment, start_time=time, tags={**kept, **own})
            run.children[seed] = made.info.run_id
            run.new.add(made.info.run_id)
        return run.children[seed]

    # Events

    def _on_open(self, run: _Run, event: dict[str, Any], files: Path) -> None:
        from mlflow.entities import Param

        pairs = [pair for k, v in event["params"].items() for pair in flatten(v, k, ".")]
        texts = {_name(k): v if isinstance(v, str) else json.dumps(v) for k, v in pairs}
        new = [Param(k, v) for k, v in texts.items() if k not in run.params]
        for chunk in _chunks(new, 100):
            self.client.log_batch(run.id, params=chunk)

    def _points(self, header: dict[str, Any], points: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        batches: dict[str, list[Any]] = {}
        run = self._run(header) if points else None
        for point in points:
            assert run is not None
            seed, name = point["seed"], _name(point["n"])
            place = run.id if seed is None else self._child(run, seed, point["t"])
            if (place, name) not in run.known:
                history = [] if place in run.new else self.client.get_metric_history(place, name)
                run.known[place, name] = {m.step for m in history}
            if point["s"] not in run.known[place, name]:
                metric = Metric(name, point["v"], point["t"], point["s"])
                batches.setdefault(place, []).append(metric)
                run.known[place, name].add(point["s"])
        for place, metrics in batches.items():
            for chunk in _chunks(metrics, 1000):
                self.client.log_batch(place, metrics=chunk)

    def _on_file(self, run: _Run, event: dict[str, Any], files: Path) -> None:
        folder = event["to"] if event["to"] != "." else None
        self.client.log_artifact(run.id, str(files / event["file"]), folder)

    def _on_tags(self, run: _Run, event: dict[str, Any], files: Path) -> None:
        self.tag(run.id, {f"retort.{k}": str(v) for k, v in event["tags"].items()})

    def _on_dataset(self, run: _Run, event: dict[str, Any], files: Path) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": event["source"]})
        profile = json.dumps({"digest": event["d"]})
        data = Dataset(event["n"], event["d"][:36], "local", source, profile=profile)
        entry = DatasetInput(data, [InputTag("mlflow.data.context", "input")])
        self.client.log_inputs(run.id, datasets=[entry])

    def _on_model(self, run: _Run, event: dict[str, Any], files: Path) -> None:
        import mlflow
        import onnx
        from mlflow.models import ModelSignature
        from mlflow.tracking import fluent
        from mlflow.types import Schema, TensorSpec

        name = re.sub(r"[^\w-]", "_", event["n"])
        asked = f"source_run_id = '{run.id}' AND name = '{name}'"
        for old in self.client.search_logged_models([run.experiment], filter_string=asked):
            if old.status == "READY":
                return
            self.client.delete_logged_model(old.model_id)
        proto = onnx.load(files / event["file"])
        inputs, outputs = interface(proto)
        takes, gives = (
            Schema([TensorSpec(t.kind, t.shape, t.name) for t in tensors])
            for tensors in (inputs, outputs)
        )
        before = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(self.uri)
        try:
            fluent.set_experiment(experiment_id=run.experiment)
            mlflow.onnx.log_model(
                proto,
                name=name,
                run_id=run.id,
                signature=ModelSignature(takes, gives),
                input_example=noise(inputs),
                # Named here, since MLflow would run the model in a process of its own to find out.
                pip_requirements=["onnx", "onnxruntime"],
                onnx_execution_providers=["CPUExecutionProvider"],
            )
        finally:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before

    def _on_close(self, run: _Run, event: dict[str, Any], files: Path) -> None:
        if event["message"]:
            self.tag(run.id, {"retort.message": event["message"]})
        for place in [*run.children.values(), run.id]:
            self.client.set_terminated(place, event["status"], event["t"])


def _tags(header: dict[str, Any]) -> dict[str, str]:
    given = header["tags"]
    parts = [p for p in (header["variant"], header["seeds"]) if p]
    tags = {
        KEY: header["key"],
        "retort.attempt": header["attempt"],
        "retort.paper": header["paper"],
        "retort.stage": header["stage"],
        "retort.variant": header["variant"] or "",
        "retort.seeds": header["seeds"] or "",
        "mlflow.runName": f"{header['stage']}@{'-'.join(parts)}" if parts else header["stage"],
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": given.get("dvc_stage", header["stage"]),
        "mlflow.source.git.commit": given.get("commit", ""),
    }
    tags |= {_name(f"retort.{k}"): v for k, v in given.items()}
    if "restored" in given:
        tags["mlflow.note.content"] = "Restored from DVC's cache; written from its result files."
    return {k: v for k, v in tags.items() if v}


def _begun(attempt: str) -> int:
    """When an attempt began, in ns."""
    return int(attempt.partition("-")[0])


def _name(text: str) -> str:
    """A name that MLflow takes: letters, digits and _ - . : / and space; at most 250."""
    return re.sub(r"[^\w\-.:/ ]", "_", text, flags=re.ASCII)[:250]


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
