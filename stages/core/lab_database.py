"""A lab's databases: made where missing, their schemas brought up to date before servers start."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.lab import README, Lab

DATABASES = ("mlflow", "mlflow_auth", "prefect")
PATIENCE = 10
"""Seconds that PostgreSQL has to answer."""
LOCK = 0x7265746F7274
"""Key of the lock under which one process at a time migrates."""


def prepare(root: Path, lab: Lab) -> None:
    """Make the databases that are missing and migrate all to the versions installed here.

    Two that start at once take turns: migrations of one schema must not run side by side.

    Raises:
        UserError: PostgreSQL does not let us in, or a database cannot be made or migrated.
    """
    import psycopg2

    try:
        with _cursor(lab) as cursor:
            while not _one(cursor, f"SELECT pg_try_advisory_lock({LOCK})"):
                time.sleep(0.5)  # in Python, where Ctrl-C is heard
            for name in DATABASES:
                if not _one(cursor, "SELECT 1 FROM pg_database WHERE datname = %s", name):
                    _create(lab, cursor, name)
            _migrate(root, lab)
    except psycopg2.Error as error:
        raise UserError(
            f"PostgreSQL at {lab.place}, user {lab.login}: {_first(error)}; is RETORT_LAB_DATABASE "
            "its address, and the password in PGPASSWORD or in the file that PGPASSFILE names? "
            f"({README})"
        ) from None


@contextlib.contextmanager
def _cursor(lab: Lab) -> Iterator[Any]:
    import psycopg2

    # None leaves the password to libpq.
    base = psycopg2.connect(
        lab.uri("postgres"), password=lab.database_password, connect_timeout=PATIENCE
    )
    with contextlib.closing(base), base.cursor() as cursor:
        base.autocommit = True  # a database cannot be created within a transaction
        yield cursor


def _one(cursor: Any, query: str, *values: str) -> Any:
    """The first value of the first row; None where there is no row."""
    cursor.execute(query, values)
    row = cursor.fetchone()
    return row and row[0]


def _create(lab: Lab, cursor: Any, name: str) -> None:
    import psycopg2

    try:
        # Not the cluster's encoding: names and messages are any text.
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    except psycopg2.Error as error:
        raise UserError(
            f"PostgreSQL at {lab.place}: the database {name} cannot be created: {_first(error)}; "
            f"have its administrator do it: createdb --owner={lab.login} {name}"
        ) from None


def _migrate(root: Path, lab: Lab) -> None:
    """Run the migrations of the databases, each of which is another's, side by side."""
    python, logs = [sys.executable, "-m"], root / "work/.logs"
    logs.mkdir(parents=True, exist_ok=True)
    # An address as a word is seen by all users: it holds no password.
    commands = {
        "mlflow": [*python, "mlflow", "db", "upgrade", lab.uri("mlflow")],
        "mlflow_auth": [
            *[*python, "mlflow.server.auth", "db", "upgrade"],
            *["--url", lab.uri("mlflow_auth")],
        ],
        "prefect": [*python, "prefect", "server", "database", "upgrade", "-y"],
    }
    env = {**os.environ, **lab.database_env(), "MLFLOW_DISABLE_TELEMETRY": "true"}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, words in commands.items():
            book = stack.enter_context((logs / _log(name)).open("wb"))
            running[name] = process = subprocess.Popen(
                words, cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=book, stderr=book
            )
            # After a Ctrl-C none goes on unseen; PostgreSQL takes back what was not finished.
            stack.callback(process.wait)
            stack.callback(process.terminate)
        failed = [name for name, process in running.items() if process.wait()]
    if failed:
        raise UserError(
            f"PostgreSQL at {lab.place}: the schema of {' and '.join(failed)} was not brought up "
            f"to date; work/.logs/{_log(failed[0])} says why"
        )


def _log(name: str) -> str:
    return f"migrate-{name}.log"


def _first(error: Exception) -> str:
    """The first line of what PostgreSQL says, which never holds a password."""
    return next(iter(str(error).splitlines()), type(error).__name__)
