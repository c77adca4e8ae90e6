"""The registry of models: which network of a paper is in use, where it came from, what it beat.

With `mlflow_sink` the only place that knows MLflow. A registered model bears its paper's name; its
version in use has the alias `champion`. What a version is lies among the artifacts of its run:
`networks/` (safetensors, never a pickle), `verdicts.json`, `decision.json`, `params.yaml` and
`dvc.lock`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.core.tracking.address import server_name, tracking_uri, why_away
from stages.core.tracking.mlflow_sink import SETTINGS, experiment

ALIAS = "champion"
USED = "retort.in_use"
"""Tag of a version that is or was the champion; set after the alias."""
REPLACED = "retort.replaced"
NETWORKS, VERDICTS, DECISION = "networks", "verdicts.json", "decision.json"


@dataclass(frozen=True)
class Version:
    """A registered network.

    Attributes:
        tags: its lineage.
    """

    number: str
    run: str
    tags: Mapping[str, str]

    @property
    def used(self) -> bool:
        """Whether it is or was the champion."""
        return USED in self.tags


class Registry:
    """The models of one paper in one profile: networks of another size are no rivals.

    Raises:
        UserError: the tracking server is away; nothing can be decided without it.
    """

    def __init__(self, root: Path, paper: str, profile: str) -> None:
        self.root, self.paper = root.resolve(), paper
        self.name = paper.replace("/", "-") + ("" if profile == "desk" else f"-{profile}")
        uri = tracking_uri(root)
        if why := why_away(uri):
            raise UserError(f"the registry is away ({server_name(root)}: {why}); try again later")
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(uri)

    def champion(self) -> Version | None:
        """The version in use; None where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_model_version_by_alias(self.name, ALIAS)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return _version(found)

    def versions(self) -> list[Version]:
        """All that were registered, the last one last."""
        found = self.client.search_model_versions(f"name = '{self.name}'")
        return sorted(map(_version, found), key=lambda version: int(version.number))

    def once_used(self, number: str) -> Version:
        """A version that is or was the champion, by its number.

        Raises:
            UserError: there is none; names those that there are.
        """
        used = {version.number: version for version in self.versions() if version.used}
        if number not in used:
            there = ", ".join(used) or "none"
            raise UserError(f"{self.name}: version {number} never was in use; these were: {there}")
        return used[number]

    def fetch(self, version: Version, folder: Path) -> tuple[Path, dict[str, str]]:
        """A version's networks, in a folder below `folder`, and the verdicts that it had."""
        self.client.download_artifacts(version.run, NETWORKS, str(folder))
        path = Path(self.client.download_artifacts(version.run, VERDICTS, str(folder)))
        return folder / NETWORKS, read_json(path)

    def decision(self, version: Version) -> dict[str, Any]:
        """What was decided when a version was registered: outcome and findings."""
        with tempfile.TemporaryDirectory() as own:
            path = self.client.download_artifacts(version.run, DECISION, own)
            return dict(read_json(Path(path)))

    def register(
        self,
        networks: Mapping[str, Path],
        texts: Mapping[str, Path],
        verdicts: Mapping[str, str],
        decision: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> Version:
        """Register a network with the decision on it.

        Args:
            networks: path from the root -> folder.
            texts: further files by name.
            tags: its lineage.
        """
        marks = {**{f"retort.{k}": v for k, v in tags.items()}, "mlflow.runName": "retrain"}
        place = experiment(self.client, self.root, self.paper)
        run = self.client.create_run(place, tags=marks).info
        try:
            for name, folder in networks.items():
                self.client.log_artifacts(run.run_id, str(folder), f"{NETWORKS}/{name}")
            self._describe(run.run_id, texts, verdicts, decision)
        except BaseException:
            self.client.set_terminated(run.run_id, "FAILED")
            raise
        self.client.set_terminated(run.run_id)
        if not self.client.search_registered_models(f"name = '{self.name}'"):
            self.client.create_registered_model(self.name)
        source = f"{run.artifact_uri}/{NETWORKS}"
        made = self.client.create_model_version(self.name, source, run.run_id, tags=marks)
        return _version(made)

    def _describe(
        self,
        run: str,
        texts: Mapping[str, Path],
        verdicts: Mapping[str, str],
        decision: Mapping[str, Any],
    ) -> None:
        for name, path in texts.items():
            place = Path(name).parent.as_posix()
            self.client.log_artifact(run, str(path), None if place == "." else place)
        with tempfile.TemporaryDirectory() as own:
            for name, value in ((VERDICTS, verdicts), (DECISION, decision)):
                write_json(Path(own) / name, value)
                self.client.log_artifact(run, str(Path(own) / name))
        for finding in decision["findings"]:
            for end in ("value", "low", "high", "bound"):
                if finding[end] is not None:
                    name = f"{finding['kind']}/{finding['what']}/{end}"
                    self.client.log_metric(run, name, finding[end])

    def promote(self, version: Version, replaced: Version | None) -> None:
        """Put a version in use; the one that it replaces is kept in mind for a way back."""
        if replaced is not None:
            self._tag(version, REPLACED, replaced.number)
        self.client.set_registered_model_alias(self.name, ALIAS, version.number)
        self._tag(version, USED, "yes")

    def _tag(self, version: Version, key: str, value: str) -> None:
        self.client.set_model_version_tag(self.name, version.number, key, value)


@contextmanager
def talking() -> Iterator[None]:
    """Within the block, what the registry fails at is told in one message.

    Raises:
        UserError: the registry did not do what it was asked for.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, ConnectionError, TimeoutError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"the registry failed: {why}; the champion is the one it says") from error


def _version(found: Any) -> Version:
    return Version(str(found.version), found.run_id, found.tags)
