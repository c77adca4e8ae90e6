"""A project with an empty MLflow database."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.core.tracking import sender
from stages.core.tracking.locks import is_held
from stages.core.tracking.mlflow_sink import MlflowSink
from stages.core.tracking.spool import home


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes MLflow a second."""
    root = tmp_path_factory.mktemp("database")
    MlflowSink(root).client.search_experiments()
    return root / "mlflow.db"


@pytest.fixture
def project(tmp_path: Path, database: Path) -> Iterator[Path]:
    """A project's root; no sender outlives the test."""
    shutil.copy(database, tmp_path)
    yield tmp_path
    sender.quiesce(tmp_path)
    assert not is_held(home(tmp_path) / "lock")
    os.close(sender._paused.pop(tmp_path))
