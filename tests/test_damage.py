"""Damaged files, a full disk, a clock that jumps: no wrong result is served, nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.core import dag
from stages.core.files import read_json
from stages.core.intact import refuse_damaged
from stages.core.params import read_yaml
from stages.core.recorded import files_now
from tests import project

pytestmark = pytest.mark.slow
DVC = ("dvc", "repro", "pipelines/demo/dvc.yaml")
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long ahead(void) {  /* seconds, read anew each time */
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_AHEAD"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *there) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (there) *there = exact.tv_sec;
    return exact.tv_sec;
}
"""
"""The wall clock of a process, and of no other, some seconds ahead; files keep the kernel's."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project.make(tmp_path_factory.mktemp("made") / "p")
    project.repro(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "p", symlinks=True))


def fails(folder: Path, *words: str) -> str:
    """What a command says that must fail."""
    done = subprocess.run(
        words, cwd=folder, env=project.ENV, capture_output=True, text=True, check=False
    )
    assert done.returncode, done.stdout
    return done.stdout + done.stderr


TEACH = "work/demo/teach"


def anew(folder: Path, before: dict[str, str]) -> None:
    """The next run makes teach again, and all is as it would be with nothing damaged."""
    assert "teach" in project.ran(project.repro(folder))
    after = project.outputs(folder)
    assert after[TEACH] == before[TEACH]
    fresh = project.make(folder.parent / "fresh")
    project.change(fresh, "demo.prune.share", 0.25)
    project.repro(fresh)
    assert after == project.outputs(fresh)


def test_a_damaged_file_of_dvcs_cache_is_not_read(folder: Path) -> None:
    before = project.outputs(folder)
    copy = project.rot(folder / ".dvc/cache/files", folder / TEACH / "model.safetensors")
    shutil.rmtree(folder / TEACH)
    project.change(folder, "demo.prune.share", 0.25)
    said = fails(folder, *DVC)
    assert f"{TEACH}/model.safetensors: not the bytes that were made" in said
    assert "Traceback" not in said and not copy.exists()
    assert (folder / "work/.damaged" / TEACH / "part00.bin").exists()
    anew(folder, before)


def test_a_damaged_list_of_a_folders_files_is_found_by_the_audit(folder: Path) -> None:
    """It stays JSON: a file has another name, and DVC takes that for the result."""
    md5 = project.outputs(folder)[TEACH]
    listed = folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    project.rot(listed.parent, listed, listed.read_bytes().index(b"model.safetensors"))
    shutil.rmtree(folder / TEACH)
    project.change(folder, "demo.prune.share", 0.25)
    fails(folder, *DVC)
    said = fails(folder, sys.executable, "-m", "stages", "audit")
    assert "python -m stages teach demo: 2 runs of the same inputs differ" in said


def test_a_damaged_output_is_put_right_from_the_cache(folder: Path) -> None:
    before = project.outputs(folder)
    project.run(folder, "dvc", "status", "pipelines/demo/dvc.yaml")  # DVC has seen the files
    model = folder / TEACH / "model.safetensors"
    whole = model.read_bytes()
    project.rot(folder / TEACH, model)
    assert model.read_bytes() != whole
    project.change(folder, "demo.prune.share", 0.25)
    assert "teach" not in project.ran(project.repro(folder))
    assert model.read_bytes() == whole
    assert project.outputs(folder)[TEACH] == before[TEACH]


def test_what_a_user_has_changed_is_read_and_kept(folder: Path) -> None:
    (folder / TEACH / "more.txt").write_text("mine")
    model = folder / TEACH / "model.safetensors"
    changed = model.read_bytes()[:-1] + b"0"
    model.unlink()
    model.write_bytes(changed)
    words = ["dvc", "repro", "--single-item", "pipelines/demo/dvc.yaml:prune@first-0-1"]
    assert "prune@first" in project.run(folder, *words).stdout
    assert (folder / TEACH / "more.txt").is_file() and model.read_bytes() == changed


def test_a_lock_file_that_is_being_written_condemns_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_STAGE", "prune")
    lock = folder / "pipelines/demo/dvc.lock"
    text, before = lock.read_text(), files_now(folder / "work/demo")
    values = read_yaml(folder / "params.yaml")
    node = dag.node(folder, "demo", "evaluate", None, None)
    for length in range(0, len(text), 7):
        lock.write_text(text[:length])
        refuse_damaged(folder, node, values)
    assert files_now(folder / "work/demo") == before


def test_a_damaged_file_below_a_folder_that_a_stage_reads(folder: Path) -> None:
    """evaluate reads the folder of all arms; an entry of dvc.lock without a stage is no matter."""
    with (folder / "pipelines/demo/dvc.lock").open("a") as lock:
        lock.write("  gone:\n    cmd: none\n    outs:\n    - path: work/demo/prune\n")
        lock.write("      hash: md5\n      md5: 00000000000000000000000000000000.dir\n")
    arm = next((folder / "work/demo/prune/second/0-1").glob("*.json"))
    project.rot(folder / ".dvc/cache/files", arm)
    shutil.rmtree(folder / "work/demo/prune")
    with (folder / "pipelines/demo/evaluate.py").open("a") as code:
        code.write("# It must run again.\n")
    said = fails(folder, *DVC)
    assert "work/demo/prune/second/0-1/" in said and "not the bytes that were made" in said
    assert (folder / "work/demo/prune/first/0-1").is_dir()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


HEAL = """
from pathlib import Path
from stages.core.heal import heal
heal(Path(), print)
"""


@pytest.mark.long
def test_a_disk_that_is_full_loses_nothing(small_disk: Path, made: Path) -> None:
    """Full at many moments: kilobytes are left for ever more of the run."""
    folder = project.make(small_disk / "p")
    (folder / "receipts").mkdir()
    project.run(folder, sys.executable, "-m", "stages", "fingerprint")
    filler, failed = small_disk / "filler", 0
    for left in (4, 12, 24, 48, 96, 128, 160, 200, 260, 320, 400, 520):
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(b"x" * (free - left * 1024))
        done = subprocess.run(
            DVC, cwd=folder, env=project.ENV, capture_output=True, text=True, check=False
        )
        if done.returncode:
            failed += 1
            # The latter is Python's: it leaves half a compiled module.
            reasons = ("No space left on device", "marshal data too short")
            assert any(r in done.stdout + done.stderr for r in reasons), (left, done)
        filler.unlink()
        if done.returncode:
            project.run(folder, sys.executable, "-c", HEAL)
    project.run(folder, sys.executable, "-m", "stages", "repro")
    assert project.outputs(folder) == project.outputs(made)
    assert failed > 5


@pytest.mark.long
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("jump", [-7_200, 259_200])
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, made: Path, jump: int) -> None:
    (tmp_path / "clock.c").write_text(CLOCK)
    words = ["cc", "-shared", "-fPIC", "-o", "clock.so", "clock.c", "-ldl"]
    subprocess.run(words, cwd=tmp_path, check=True)
    folder = project.make(tmp_path / "p")
    (folder / "receipts").mkdir()
    now = tmp_path / "now"
    now.write_text("0")
    env = {"LD_PRELOAD": str(tmp_path / "clock.so"), "CLOCK_AHEAD": str(now)}
    asked = [sys.executable, "-c", "import time; print(time.time())"]
    now.write_text("1000000")
    told = subprocess.run(asked, env={**project.ENV, **env}, capture_output=True, check=True)
    assert float(told.stdout) > time.time() + 900_000
    now.write_text("0")
    process = subprocess.Popen(
        [sys.executable, "-m", "stages", "repro"], cwd=folder, env={**project.ENV, **env},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while process.poll() is None and not (folder / "work/demo/prepare").exists():
        time.sleep(0.05)
    assert process.poll() is None, "the run was over before"
    now.write_text(str(jump))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert project.outputs(folder) == project.outputs(made)
    receipts = list((folder / "receipts/demo").glob("*.json"))
    assert len(receipts) == 5
    for receipt in receipts:
        assert 0 <= read_json(receipt)["seconds"] < 300
    assert (
        "nothing has changed" in project.run(folder, sys.executable, "-m", "stages", "repro").stdout
    )
