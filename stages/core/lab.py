"""`make serve LAB=1`: what sets the servers of a lab apart: PostgreSQL, passwords, addresses.

No address of a database holds its password: libpq and asyncpg take it from the environment. So
nothing that is printed, logged or seen in a list of processes can give it away.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import stat
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stages.core.errors import UserError
from stages.core.files import write_text

ADMIN = "admin"
"""Who logs in with RETORT_LAB_PASSWORD, in MLflow and in Prefect."""
PASSWORD, DATABASE, SECRETS = "RETORT_LAB_PASSWORD", "RETORT_LAB_DATABASE", "RETORT_LAB_SECRETS"
KEYS = (PASSWORD, DATABASE, "PGPASSWORD")
"""What the file that RETORT_LAB_SECRETS names may hold; the environment goes before it."""
PACKAGES = {"psycopg2": "psycopg2-binary", "asyncpg": "asyncpg", "flask_wtf": "Flask-WTF"}
REMEMBER = 300
"""Seconds that MLflow trusts a password it has checked: each check costs tens of ms."""
README = "README, 'Servers of a lab'"
REFUSED = {
    401: f"{PASSWORD} is not the password of its user '{ADMIN}', which was set when its database "
    f"was new; give that one, or change it ({README})",
    403: "it does not go by this name; list the name in MLFLOW_SERVER_ALLOWED_HOSTS",
}
"""Why MLflow does not answer its own administrator."""


@dataclass(frozen=True)
class Lab:
    """How the servers of a lab run.

    Attributes:
        login: the user of the database, as it stands in an address.
        place: host and port of PostgreSQL.
        host: where MLflow and Prefect listen.
        password: of `ADMIN`.
        database_password: None where libpq knows it (PGPASSFILE, ~/.pgpass) or none is asked for.
    """

    login: str
    place: str
    host: str
    password: str = field(repr=False)
    database_password: str | None = field(repr=False, default=None)

    def uri(self, database: str, driver: str = "") -> str:
        """The address of a database, without a password."""
        return f"postgresql{driver}://{self.login}@{self.place}/{database}"

    def database_env(self) -> dict[str, str]:
        """What lets a process into the databases."""
        env = {
            "MLFLOW_BACKEND_STORE_URI": self.uri("mlflow"),
            "PREFECT_API_DATABASE_CONNECTION_URL": self.uri("prefect", "+asyncpg"),
        }
        return env | ({"PGPASSWORD": self.database_password} if self.database_password else {})

    def mlflow_words(self, port: int) -> list[str]:
        """The command of MLflow's server."""
        words = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
        # One worker: another would not see at once that a user's password was changed.
        return [*words, "--host", self.host, "--port", str(port), "--workers", "1"]

    def mlflow_env(self, root: Path) -> dict[str, str]:
        """Log-in and proxied artifacts; writes MLflow's settings, which hold no secret."""
        settings = {
            # Who is let in may record: the experiments are the papers', not a user's.
            "default_permission": "EDIT",
            "database_uri": self.uri("mlflow_auth"),
            "admin_username": ADMIN,
            "auth_cache_ttl_seconds": str(REMEMBER),
        }
        lines = ["[mlflow]", *(f"{k} = {v.replace('%', '%%')}" for k, v in settings.items())]
        path = root.resolve() / "work/.lab/mlflow.ini"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "\n".join(lines) + "\n")
        key, files = "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_ARTIFACTS_DESTINATION"
        return self.database_env() | {
            "MLFLOW_AUTH_CONFIG_PATH": str(path),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            # It signs the form for new users: one of each start does.
            key: os.environ.get(key) or secrets.token_hex(32),
            files: os.environ.get(files) or str(root.resolve() / "mlartifacts"),
        }

    def prefect_env(self) -> dict[str, str]:
        """Log-in; the schema is up to date already."""
        return self.database_env() | {
            "PREFECT_SERVER_API_AUTH_STRING": f"{ADMIN}:{self.password}",
            "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
        }

    def log_in(self, address: str) -> None:
        """Have this process send the password with every request below `address`."""
        known = urllib.request.HTTPPasswordMgrWithPriorAuth()
        known.add_password(None, address, ADMIN, self.password, is_authenticated=True)
        urllib.request.install_opener(
            urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(known))
        )


def read_lab(root: Path, host: str) -> Lab:
    """How to run, from the environment and the file that RETORT_LAB_SECRETS names.

    Raises:
        UserError: a package, the password or the address is missing, or is not to be used.
    """
    if lacking := [pip for name, pip in PACKAGES.items() if not importlib.util.find_spec(name)]:
        raise UserError(
            f"serve --lab needs {', '.join(lacking)}: pip install -c constraints.txt -e '.[lab]'"
        )
    given = _secrets(root) | {key: os.environ[key] for key in KEYS if os.environ.get(key)}
    for key in (PASSWORD, DATABASE):
        if not given.get(key):
            raise UserError(
                f"serve --lab: {key} is not set; give it in the environment, or in a file outside "
                f"the project that {SECRETS} names ({README})"
            )
    # Browsers, Prefect and MLflow do not agree on how to send anything but ASCII.
    if not re.fullmatch(r"[!-~]{12,}", given[PASSWORD]):
        raise UserError(f"{PASSWORD}: write 12 or more letters, digits and signs of ASCII")
    login, place, password = _database(given[DATABASE])
    return Lab(login, place, host, given[PASSWORD], password or given.get("PGPASSWORD"))


def _database(address: str) -> tuple[str, str, str | None]:
    """User, place and password of an address; an error does not repeat it."""
    try:
        parts = urlsplit(address)
        whole = (
            parts.scheme in ("postgresql", "postgres")
            and (parts.username and parts.hostname and parts.port != 0)
            and not (parts.path.strip("/") or parts.query or parts.fragment)
        )
    except ValueError:
        whole = False
    if not whole:
        raise UserError(
            f"{DATABASE}: write postgresql://user@host:port, without a database (three are used: "
            "mlflow, mlflow_auth, prefect) and without options (libpq's variables, such as "
            "PGSSLMODE, hold)"
        )
    user, _, place = parts.netloc.rpartition("@")
    password = unquote(parts.password) if parts.password else None
    return user.partition(":")[0], place if parts.port else f"{place}:5432", password


def _secrets(root: Path) -> dict[str, str]:
    """Lines KEY=VALUE of the file that RETORT_LAB_SECRETS names; none where it names none."""
    if not (named := os.environ.get(SECRETS)):
        return {}
    path = Path(named).resolve()
    if path.is_relative_to(root.resolve()):
        raise UserError(
            f"{SECRETS}: {named} lies inside the project, from where it gets into copies and "
            "commits; move it out"
        )
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"{SECRETS}: {named} cannot be read: {why}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise UserError(f"{SECRETS}: {named} is open to other users: chmod 600 {named}")
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if key.strip() not in KEYS or not equals:
            raise UserError(
                f"{SECRETS}: {named}, line {number}: write KEY=VALUE, where KEY is one of "
                f"{', '.join(KEYS)}"
            )
        found[key.strip()] = value.strip()
    return found
