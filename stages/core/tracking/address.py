"""Where the tracking server is, whether it lives, and its pages. Imports no MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

ARTIFACTS = "mlartifacts"
DATABASE = "mlflow.db"
PROBE = 3.0
"""Seconds that a server has to give a first sign of life."""


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the project's own SQLite file. Relative files are the root's."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE}"
    relative = re.fullmatch(r"sqlite:///([^/].*)", uri)
    return f"sqlite:///{root.resolve() / relative[1]}" if relative else uri


def artifacts(root: Path) -> str | None:
    """Where a new experiment's files go: beside the database; None where a server decides.

    A profile's tree may write into the project's database: its files must not lie in that tree.
    """
    uri = tracking_uri(root)
    if uri.startswith("http"):
        return None
    home = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:") else root
    return str(home.resolve() / ARTIFACTS)


def server_name(root: Path) -> str:
    """The tracking server for people to read, without user, password or query."""
    uri = tracking_uri(root)
    parts = urlsplit(uri)
    return _without_user(uri) if parts.hostname else Path(parts.path or uri).name


def why_away(uri: str) -> str | None:
    """Why the server at `uri` cannot be used now, or None. Takes `PROBE` seconds at most."""
    parts = urlsplit(uri)
    try:
        if parts.scheme in ("http", "https"):
            asked = _without_user(uri).rstrip("/") + "/health"
            urllib.request.urlopen(asked, timeout=PROBE).close()
        elif parts.hostname:
            place = (parts.hostname, parts.port or 5432)
            socket.create_connection(place, timeout=PROBE).close()
    except urllib.error.HTTPError as error:
        # Any other answer comes from a living server, be it "who are you?".
        return f"HTTP {error.code}" if error.code >= 500 else None
    except TimeoutError:
        return f"no answer in {PROBE:.0f} s"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def relocate(root: Path) -> None:
    """Mend the paths in the project's own database after the project was moved or copied.

    MLflow keeps absolute paths of artifacts; without this a copy would write into the original.
    """
    path, here = root.resolve() / DATABASE, str(root.resolve())
    if tracking_uri(root) != f"sqlite:///{path}" or not path.is_file():
        return
    columns = (
        ("experiments", "artifact_location"),
        ("runs", "artifact_uri"),
        ("logged_models", "artifact_location"),
    )
    mark = f"/{ARTIFACTS}/"
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as base, base:
        there = {row[0] for row in base.execute("SELECT name FROM sqlite_master")}
        if not {table for table, _ in columns} <= there:
            return
        places = [row[0] or "" for row in base.execute("SELECT artifact_location FROM experiments")]
        for old in {p.split(mark)[0] for p in places if mark in p} - {here}:
            for table, column in columns:
                base.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column}, 1, ?) = ?",
                    (here, len(old) + 1, len(old + mark), old + mark),
                )


def server_command(root: Path, port: int) -> list[str]:
    """The command that serves MLflow's pages on loopback.

    Where the runs are stands in MLFLOW_BACKEND_STORE_URI: an address may hold a password, and all
    users see the words of a command.
    """
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    return [*words, "--workers", "1", "--artifacts-destination", str(root.resolve() / ARTIFACTS)]


def run_pages(server: str) -> Iterator[tuple[str, str]]:
    """Each paper of a server with the address of its table of runs.

    Not the start page, which opens on MLflow's tools for language models.
    """
    body = json.dumps({"max_results": 1000, "order_by": ["name ASC"]}).encode()
    asked = urllib.request.Request(
        f"{server}/api/2.0/mlflow/experiments/search", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        experiments = json.load(answer).get("experiments", [])
    for entry in experiments:
        if entry["name"] != "Default":
            place = f"{server}/#/experiments/{entry['experiment_id']}/runs"
            yield entry["name"], f"{place}?workflowType=machine_learning"


def _without_user(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
