"""Debian packages as carriers of data: downloaded without root, checked, unpacked, not installed.

apt-get is given folders of its own for lists, state and cache, so that neither root nor an earlier
`apt-get update` is needed and the machine's own state is left alone; its sources, keys and proxies
are the machine's. Everything lands in `work/.downloads`, which may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.core.errors import UserError
from stages.core.files import remove
from stages.prepare import datalock
from stages.prepare.datalock import Package

FOLDER = "work/.downloads"
SECONDS = 900  # for one call of apt-get; 95 MB take a minute at 2 MB/s

# Hooks that images put in place for the machine's own lists fail without root, or are slow.
CONFIG = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""


def fetch_all(root: Path) -> dict[str, Path]:
    """Fetch every Debian package that data.lock names.

    Args:
        root: the project's root.

    Returns:
        Package name -> folder of its unpacked files.

    Raises:
        UserError: as `fetch`.
    """
    return fetch(root, datalock.read(root).of(index="debian"))


def fetch(root: Path, packages: dict[str, Package]) -> dict[str, Path]:
    """Make sure that the packages lie unpacked in `root`/work/.downloads.

    What is there already is not touched and needs no network. A folder appears whole or not at
    all, whenever the process is killed; two processes wait for each other.

    Returns:
        Package name -> folder of its unpacked files.

    Raises:
        UserError: apt-get or dpkg-deb is missing, no source offers a package, a digest differs, or
            the network is away; the message says how to get the data otherwise.
    """
    store = root / FOLDER
    places = {name: store / "unpacked" / f"{name}-{p.sha256[:12]}" for name, p in packages.items()}
    if all(place.is_dir() for place in places.values()):
        return places
    store.mkdir(parents=True, exist_ok=True)
    with _locked(store):
        for leftover in store.glob("tmp-*"):
            remove(leftover)  # of a run that was killed: the lock says that none is alive
        wanted = [name for name, place in places.items() if not place.is_dir()]
        if shutil.which("dpkg-deb") is None:
            raise _no_data("dpkg-deb is missing", packages, wanted)
        debs = {name: _find(store, name, packages[name]) for name in wanted}
        absent = [name for name in wanted if debs[name] is None]
        if absent:
            with _scratch(store) as scratch:
                _download(store, scratch, packages, absent)
            debs |= {name: _find(store, name, packages[name]) for name in absent}
        for name in wanted:
            deb = debs[name]
            if deb is None:
                raise _no_data(f"{name} was not downloaded", packages, [name])
            _unpack(store, deb, places[name])
    return places


def _find(store: Path, name: str, package: Package) -> Path | None:
    """The package's .deb, wherever it came from; the digest decides, not the file's name."""
    found = sorted((store / "debs").glob(f"{name}_*.deb"))
    digests = {path: _sha256(path) for path in found}
    for path, digest in digests.items():
        if digest == package.sha256:
            return path
    if found:
        lines = "".join(f"\n  {path.name}: sha256 {digest}" for path, digest in digests.items())
        raise UserError(
            f"{FOLDER}/debs holds another build of {name} than {datalock.NAME} names "
            f"({package.version}, sha256 {package.sha256}):{lines}\n"
            "Delete that file; if the archive serves a new build, results change with it: "
            f"look at it, then update version and sha256 in {datalock.NAME}."
        )
    return None


def _download(store: Path, scratch: Path, packages: dict[str, Package], names: list[str]) -> None:
    if shutil.which("apt-get") is None:
        raise _no_data("apt-get is missing (not a Debian-like system)", packages, names)
    for part in ("lists/partial", "cache/archives/partial", "state", "debs"):
        (scratch / part).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "apt.conf").write_text(CONFIG)
    options = [
        "-qq",
        f"-c={scratch / 'apt.conf'}",
        *("-o", f"Dir::State={scratch / 'state'}"),
        *("-o", f"Dir::State::lists={scratch / 'lists'}"),
        *("-o", f"Dir::State::status={scratch / 'status'}"),
        *("-o", f"Dir::Cache={scratch / 'cache'}"),
    ]
    # A source that fails may be one that is not needed, so the download's word is the one that
    # counts.
    _, update = _call(["apt-get", *options, "update"], scratch)
    pinned = [f"{name}={packages[name].version}" for name in names]
    code, download = _call(["apt-get", *options, "download", *pinned], scratch / "debs")
    if code != 0:
        # The cause is often in what `update` said, which the download's errors would drown.
        parts = [text.strip().splitlines()[:4] for text in (update, download)]
        said = "\n".join(line for part in parts for line in part)
        away = re.search(r"Failed to fetch|Could not|timed out", said)
        reason = (
            "the package sources cannot be reached"
            if away
            else "apt-get does not offer what data.lock names"
        )
        raise _no_data(f"{reason}. apt-get said:\n{said}", packages, names)
    (store / "debs").mkdir(exist_ok=True)
    for path in sorted((scratch / "debs").glob("*.deb")):
        os.replace(path, store / "debs" / path.name)


def _unpack(store: Path, deb: Path, place: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    with _scratch(store) as scratch:
        code, said = _call(["dpkg-deb", "-x", str(deb.resolve()), str(scratch / "x")], scratch)
        if code != 0:
            raise UserError(f"{FOLDER}/debs/{deb.name} cannot be unpacked: {said.strip()}")
        os.rename(scratch / "x", place)


def _call(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and error output of a command, in plain English and without credentials."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
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
        return 1, f"{command[0]} timed out after {SECONDS} s"
    return done.returncode, re.sub(r"://[^/\s]*@", "://", done.stderr)


def _no_data(reason: str, packages: dict[str, Package], names: list[str]) -> UserError:
    lines = "".join(
        f"\n  {name} {packages[name].version}, sha256 {packages[name].sha256}" for name in names
    )
    return UserError(
        f"the data cannot be fetched: {reason}\n"
        f"Wanted are these Debian packages:{lines}\n"
        "Either run this on Debian 12 with its archive in reach, or bring the .deb files from any "
        f"Debian mirror into {FOLDER}/debs (dpkg-deb must be there to unpack them), or use data of "
        "your own: set `source:` and `root:` of the paper's `prepare:` in params.yaml."
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _scratch(store: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tmp-", dir=store)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    with (store / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go by the kernel, also after a kill
        yield


def main() -> int:
    """`python -m stages.prepare.debs`: fetch all, from the project's root."""
    try:
        places = fetch_all(Path.cwd())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for name in places:
        print(f"data: {name} is there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
