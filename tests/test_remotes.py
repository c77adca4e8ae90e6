"""Results shared through a server: OpenSSH's, WebDAV's (wsgidav), S3's protocol (moto, a mock)."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import project

pytestmark = pytest.mark.slow


@contextmanager
def serving(port: int, *words: str) -> Iterator[None]:
    """A server of ours on loopback, up when entered and gone when left."""
    server = subprocess.Popen(words, **project.QUIET)
    try:
        until = time.monotonic() + 30
        while True:
            assert server.poll() is None, f"{words[0]} ended with {server.returncode}"
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < until, f"{words[0]} does not answer"
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Names an SSH remote in a clone; a user's key stands in no committed file."""
    daemon = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
    if daemon is None:
        if os.environ.get("CI"):
            pytest.fail("CI installs openssh-server, but there is no sshd")
        pytest.skip("needs OpenSSH's server (package openssh-server)")
    home, port = tmp_path / "ssh", free_port()
    home.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True
        )
    (home / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {home}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {home}/user.pub\nStrictModes no\nPasswordAuthentication no\n"
        f"Subsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in before a login

    def name(clone: Path) -> None:
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/store"
        project.run(clone, "dvc", "remote", "add", "-d", "-f", "store", url)
        project.run(clone, "dvc", "remote", "modify", "--local", "store", "keyfile", f"{home}/user")

    with serving(port, daemon, "-D", "-e", "-f", str(home / "config")):
        yield name
    assert any((tmp_path / "store").rglob("*")), "nothing was stored"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Names an S3 remote in a clone; credentials come from the environment, as in a lab."""
    import boto3

    port = free_port()
    for key, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setitem(project.ENV, key, value)
        monkeypatch.setenv(key, value)
    url = f"http://127.0.0.1:{port}"

    def name(clone: Path) -> None:
        project.run(clone, "dvc", "remote", "add", "-d", "-f", "store", "s3://retort/store")
        project.run(clone, "dvc", "remote", "modify", "store", "endpointurl", url)

    with serving(port, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)):
        bucket = boto3.resource("s3", endpoint_url=url).create_bucket(Bucket="retort")
        yield name
        assert list(bucket.objects.filter(Prefix="store/")), "nothing was stored"


@pytest.fixture
def webdav(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Names a WebDAV remote in a clone."""
    home, port = tmp_path / "dav", free_port()
    (home / "store").mkdir(parents=True)  # which DVC does not make
    words = ["--host", "127.0.0.1", "--port", str(port), "--root", str(home)]

    def name(clone: Path) -> None:
        url = f"webdav://127.0.0.1:{port}/store"
        project.run(clone, "dvc", "remote", "add", "-d", "-f", "store", url)

    server = [sys.executable, "-m", "wsgidav.server.server_cli", *words, "--auth", "anonymous"]
    with serving(port, *server):
        yield name
    assert any((home / "store").rglob("*")), "nothing was stored"


@pytest.mark.parametrize("kind", ["ssh", "webdav", "s3"])
def test_a_reviewer_pulls_every_output_and_nothing_runs(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    remote = request.getfixturevalue(kind)
    first = project.make(tmp_path / "first", git=True)
    project.repro(first)
    project.run(first, "git", "add", "-A")
    project.run(first, "git", "commit", "-qm", "results")
    remote(first)
    project.run(first, "dvc", "push", "-q")

    project.run(tmp_path, "git", "clone", "-q", str(first), "second")
    second = tmp_path / "second"
    assert not (second / "work").exists()
    remote(second)
    project.run(second, sys.executable, "-m", "stages", "fingerprint")
    project.run(second, "dvc", "pull", "-q")
    assert project.ran(project.repro(second)) == []
    for path in project.outputs(first):
        files = [p for p in (first / path, *(first / path).rglob("*")) if p.is_file()]
        assert files
        for file in files:
            assert (second / file.relative_to(first)).read_bytes() == file.read_bytes()
