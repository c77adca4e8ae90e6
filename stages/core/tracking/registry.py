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
from stages.core.tracking.address import ARTIFACTS, server_name, tracking_uri, why_away
from stages.core.tracking.mlflow_sink import SETTINGS

ALIAS = "champion"
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


class Registry:
    """The models of one paper.

    Raises:
        UserError: the tracking server is away; nothing can be decided without it.
    """

    def __init__(self, root: Path, paper: str) -> None:
        self.root, self.paper = root.resolve(), paper
        self.uri, self.name = tracking_uri(root), paper.replace("/", "-")
        if why := why_away(self.uri):
            raise UserError(f"the registry is away ({server_name(root)}: {why}); try again later")
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(self.uri)

    def champion(self) -> Version | None:
        """The version in use; None where there is none yet."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_model_version_by_alias(self.name, ALIAS)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return _version(found)

    def latest(self) -> Version | None:
        """The version that was registered last, in use or not."""
        found = self.client.search_model_versions(f"name = '{self.name}'")
        return _version(max(found, key=lambda v: int(v.version))) if found else None

    def version(self, number: str) -> Version:
        """A version by its number.

        Raises:
            UserError: there is none; names those that there are.
        """
        found = {
            str(v.version): v for v in self.client.search_model_versions(f"name = '{self.name}'")
        }
        if number not in found:
            there = ", ".join(sorted(found, key=int)) or "none"
            raise UserError(f"{self.paper} has no version {number} in the registry; there: {there}")
        return _version(found[number])

    def fetch(self, version: Version, folder: Path) -> tuple[Path, dict[str, str]]:
        """A version's networks, in a folder below `folder`, and the verdicts that it had."""
        self.client.download_artifacts(version.run, NETWORKS, str(folder))
        path = Path(self.client.download_artifacts(version.run, VERDICTS, str(folder)))
        return folder / NETWORKS, read_json(path)

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
        run = self.client.create_run(self._experiment(), tags=marks).info
        for name, folder in networks.items():
            self.client.log_artifacts(run.run_id, str(folder), f"{NETWORKS}/{name}")
        for name, path in texts.items():
            place = Path(name).parent.as_posix()
            self.client.log_artifact(run.run_id, str(path), None if place == "." else place)
        with tempfile.TemporaryDirectory() as own:
            for name, value in ((VERDICTS, verdicts), (DECISION, decision)):
                write_json(Path(own) / name, value)
                self.client.log_artifact(run.run_id, str(Path(own) / name))
        for finding in decision["findings"]:
            for end in ("value", "low", "high", "bound"):
                if finding[end] is not None:
                    name = f"{finding['kind']}/{finding['what']}/{end}"
                    self.client.log_metric(run.run_id, name, finding[end])
        self.client.set_terminated(run.run_id)
        if not self.client.search_registered_models(f"name = '{self.name}'"):
            self.client.create_registered_model(self.name)
        made = self.client.create_model_version(
            self.name, f"{run.artifact_uri}/{NETWORKS}", run.run_id, tags=marks
        )
        return _version(made)

    def promote(self, version: Version, replaced: Version | None) -> None:
        """Put a version in use; the one that it replaces is kept in mind for a way back."""
        if replaced is not None:
            self.client.set_model_version_tag(
                self.name, version.number, "retort.replaced", replaced.number
            )
        self.client.set_registered_model_alias(self.name, ALIAS, version.number)

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.paper)
        if found:
            return str(found.experiment_id)
        place = None if self.uri.startswith("http") else str(self.root / ARTIFACTS / self.paper)
        return str(self.client.create_experiment(self.paper, place))


@contextmanager
def talking() -> Iterator[None]:
    """Within the block, what the registry refuses is told in one message.

    Raises:
        UserError: the registry did not do what it was asked for.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        why = str(error).splitlines()[0]
        raise UserError(f"the registry refused: {why}; the champion is the one it says") from error


def _version(found: Any) -> Version:
    return Version(str(found.version), found.run_id, found.tags)
