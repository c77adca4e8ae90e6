"""Can a cluster run this project's stages? Asked before anything else is started."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from stages.core import receipts
from stages.core.errors import UserError
from stages.core.params import read_yaml

CONNECT_SECONDS = 15.0


def ready(root: Path, address: str) -> str:
    """The commit that workers are to check out.

    Raises:
        UserError: `distributed` is not installed, the tree differs from its commit, the device is
            left open, DVC has no default remote or does not check what comes from it, or nobody
            answers at `address`.
    """
    if find_spec("distributed") is None:
        raise UserError("--cluster needs Dask: `pip install -c constraints.txt -e '.[dist]'`")
    commit, dirty = receipts.commit(root)
    if not commit:
        raise UserError("--cluster: workers check out your commit, and this tree is under no git")
    if dirty:
        raise UserError(
            "--cluster: workers check out your commit, and this tree differs from it; commit and "
            "push first (`git status` says what)"
        )
    if (device := read_yaml(root / "params.yaml")["common"]["device"]) == "auto":
        raise UserError(
            f"--cluster: common.device is '{device}' in params.yaml, which workers may read in "
            "different ways; write cpu or cuda"
        )
    remote = _config(root, "core.remote")
    if not remote:
        raise UserError(
            "--cluster: results travel through a DVC remote, and there is none by default; "
            "`dvc remote add -d store ssh://host/path` names one"
        )
    if _config(root, f"remote.{remote}.verify").lower() != "true":
        raise UserError(
            "--cluster: DVC would take damaged files from the remote for whole; "
            f"`dvc remote modify {remote} verify true`, and commit it"
        )
    try:
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port or 8786), CONNECT_SECONDS):
            pass
    except (OSError, ValueError) as error:
        raise UserError(nobody(address, error)) from None
    return commit


def _config(root: Path, name: str) -> str:
    """A value that workers will read too, from the configuration that git keeps; or nothing."""
    asked = [sys.executable, "-m", "dvc", "config", "--project", name]
    done = subprocess.run(asked, cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def nobody(address: str, error: Exception) -> str:
    return (
        f"no Dask scheduler answers at {address} ({error}); `dask scheduler` starts one, "
        "`python -m stages join` its workers"
    )
