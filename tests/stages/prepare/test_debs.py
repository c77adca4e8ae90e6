"""Against an archive of three tiny packages on disk, which apt reads like any other."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from stages.core.errors import UserError
from stages.core.files import listing
from stages.prepare import debs

ROOT = Path(__file__).parents[3]
NAMES = ("retort-test-a", "retort-test-b")

pytestmark = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")),
    reason="needs apt-get and dpkg-deb, which Debian and its kin have",
)


def make_deb(folder: Path, name: str, text: str) -> Path:
    tree = folder / f"{name}.tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1:2-3\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: data for a test\n"
    )
    (tree / "usr/share").mkdir(parents=True)
    (tree / f"usr/share/{name}.txt").write_text(text)
    path = folder / f"{name}_2-3_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", str(tree), str(path)],
        check=True,
        capture_output=True,
    )
    shutil.rmtree(tree)
    return path


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local archive, made the machine's only one for this test."""
    folder = tmp_path / "archive"
    folder.mkdir()
    index = ""
    for name in NAMES:
        deb = make_deb(folder, name, f"this is {name}\n")
        data = deb.read_bytes()
        index += (
            f"Package: {name}\nVersion: 1:2-3\nArchitecture: all\nDescription: data for a test\n"
            f"Maintainer: Nobody <nobody@example.org>\nFilename: ./{deb.name}\n"
            f"Size: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n"
        )
    (folder / "Packages").write_text(index)
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb [trusted=yes] copy:{folder} ./\n")
    conf = tmp_path / "machine.conf"
    conf.write_text(f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n')
    monkeypatch.setenv("APT_CONFIG", str(conf))
    return folder


@pytest.fixture
def project(tmp_path: Path, archive: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    packages = {
        name: {
            "index": "debian",
            "version": "1:2-3",
            "sha256": hashlib.sha256((archive / f"{name}_2-3_all.deb").read_bytes()).hexdigest(),
            "bytes": 1,
            "licence": "CC-BY-3.0",
            "author": "A",
            "attribution": "by A",
            "take": ["usr/share"],
            "papers": ["p"],
        }
        for name in NAMES
    }
    (root / "data.lock").write_text(yaml.safe_dump({"packages": packages}))
    return root


def contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text()
        for path in listing(root / debs.FOLDER / "unpacked")
    }


def relock(root: Path, name: str, **change: str) -> None:
    lock = yaml.safe_load((root / "data.lock").read_text())
    lock["packages"][name] |= change
    (root / "data.lock").write_text(yaml.safe_dump(lock))


def test_fetch_unpacks_and_installs_nothing(project: Path) -> None:
    places = debs.fetch_all(project)
    assert set(places) == set(NAMES)
    for name, place in places.items():
        assert (place / f"usr/share/{name}.txt").read_text() == f"this is {name}\n"
    assert {p.name for p in (project / debs.FOLDER).iterdir()} == {"debs", "unpacked", ".lock"}
    shown = subprocess.run(["dpkg", "-s", NAMES[0]], capture_output=True, check=False)
    assert shown.returncode != 0


def test_what_is_there_needs_no_tool_and_no_network(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = debs.fetch_all(project)
    monkeypatch.setenv("PATH", "")
    assert debs.fetch_all(project) == first


def test_one_missing_folder_is_remade_from_its_deb(project: Path, archive: Path) -> None:
    places = debs.fetch_all(project)
    before = contents(project)
    shutil.rmtree(places[NAMES[0]])
    shutil.rmtree(archive)
    debs.fetch_all(project)
    assert contents(project) == before


def test_debs_brought_by_hand_suffice(
    project: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = project / debs.FOLDER / "debs"
    store.mkdir(parents=True)
    for deb in archive.glob("*.deb"):
        shutil.copy(deb, store)
    only = project / "bin"
    only.mkdir()
    for tool in ("dpkg-deb", "tar", "xz", "zstd", "gzip"):
        if found := shutil.which(tool):
            (only / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(only))
    assert len(contents(project)) == 0
    debs.fetch_all(project)
    assert len(contents(project)) == 2


def test_another_build_is_refused(project: Path) -> None:
    relock(project, NAMES[1], sha256="0" * 64)
    with pytest.raises(UserError, match="another build of retort-test-b") as caught:
        debs.fetch_all(project)
    assert "0" * 64 in str(caught.value) and "retort-test-b_" in str(caught.value)
    assert contents(project) == {}


def test_a_version_that_is_not_offered(project: Path) -> None:
    relock(project, NAMES[0], version="9-9")
    with pytest.raises(UserError, match="does not offer") as caught:
        debs.fetch_all(project)
    for word in ("9-9", "retort-test-a", debs.FOLDER, "root:", "any Debian mirror"):
        assert word in str(caught.value)
    assert contents(project) == {}


def test_an_archive_out_of_reach(project: Path, archive: Path) -> None:
    shutil.rmtree(archive)
    with pytest.raises(UserError, match="cannot be fetched") as caught:
        debs.fetch_all(project)
    assert "root:" in str(caught.value)


def test_no_network(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "sources.list"
    sources.write_text("deb [trusted=yes] http://127.0.0.1:9/debian ./\n")  # nobody listens there
    conf = Path(os.environ["APT_CONFIG"])
    conf.write_text(conf.read_text() + 'Acquire::http::Proxy "http://me:secret@127.0.0.1:9";\n')
    with pytest.raises(UserError, match="the package sources cannot be reached") as caught:
        debs.fetch_all(project)
    assert "secret" not in str(caught.value) and "root:" in str(caught.value)


@pytest.mark.parametrize(("gone", "there"), [("apt-get", ["dpkg-deb"]), ("dpkg-deb", ["apt-get"])])
def test_a_missing_tool(
    project: Path, monkeypatch: pytest.MonkeyPatch, gone: str, there: list[str]
) -> None:
    only = project / "bin"
    only.mkdir()
    for tool in there:
        (only / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(only))
    with pytest.raises(UserError, match=f"{gone} is missing") as caught:
        debs.fetch_all(project)
    assert "root:" in str(caught.value)


def test_no_credentials_in_what_is_said(tmp_path: Path) -> None:
    script = "echo 'E: Failed to fetch http://me:secret@host/x' >&2; exit 100"
    code, said = debs._call(["sh", "-c", script], tmp_path)
    assert code == 100 and "secret" not in said and "http://host/x" in said


def test_kill_leaves_nothing_half_unpacked(project: Path, tmp_path: Path) -> None:
    """SIGKILL while dpkg-deb has written a part; the next run ends as an undisturbed one."""
    real = shutil.which("dpkg-deb")
    slow = tmp_path / "slow/dpkg-deb"
    slow.parent.mkdir()
    slow.write_text(
        textwrap.dedent(f"""\
            #!/bin/sh
            case "$2" in *retort-test-b*) mkdir -p "$3/usr"; touch "$3/../started"; sleep 60;; esac
            exec {real} "$@"
        """)
    )
    slow.chmod(0o755)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
               "from stages.prepare import debs; sys.exit(debs.main())"]  # fmt: skip
    environment = {**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(command, cwd=project, env=environment, start_new_session=True)
    store = project / debs.FOLDER
    deadline = time.monotonic() + 60
    while not list(store.glob("tmp-*/started")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name for path in listing(store / "unpacked")] == ["retort-test-a.txt"]
    assert list(store.glob("tmp-*"))
    done = subprocess.run(command, cwd=project, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "retort-test-b is there" in done.stdout
    assert len(contents(project)) == 2
    assert not list(store.glob("tmp-*"))


def test_command_line_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert debs.main() == 2
    assert "data.lock is missing" in capsys.readouterr().err


def test_two_at_once_wait_for_each_other(project: Path) -> None:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
               "from stages.prepare import debs; sys.exit(debs.main())"]  # fmt: skip
    running = [subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert len(contents(project)) == 2
