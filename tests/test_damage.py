"""Damaged files, a full disk, a clock that jumps: no wrong result is served, nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.core.files import read_json
from stages.core.heal import heal
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


@pytest.mark.parametrize("damaged", ["model.safetensors", "the list of the folder's files"])
def test_a_damaged_file_of_dvcs_cache_is_not_read(folder: Path, damaged: str) -> None:
    before = project.outputs(folder)
    cache = folder / ".dvc/cache/files/md5"
    if damaged.startswith("the"):
        md5 = before["work/demo/teach"]
        copy = project.rot(cache, cache / md5[:2] / md5[2:])
    else:
        copy = project.rot(cache, folder / "work/demo/teach" / damaged)
    shutil.rmtree(folder / "work/demo/teach")
    project.change(folder, "demo.prune.share", 0.25)
    if not damaged.startswith("the"):
        said = fails(folder, *DVC)
        assert "work/demo/teach/model.safetensors: not the bytes that were made" in said
        assert "Traceback" not in said and not copy.exists()
    assert "teach" in project.ran(project.repro(folder))
    after = project.outputs(folder)
    assert after["work/demo/teach"] == before["work/demo/teach"]
    fresh = project.make(folder.parent / "fresh")
    project.change(fresh, "demo.prune.share", 0.25)
    project.repro(fresh)
    assert after == project.outputs(fresh)


def test_what_was_run_by_hand_is_read(folder: Path) -> None:
    """Without DVC: who changed an input wants it read."""
    (folder / "work/demo/teach/more.txt").write_text("mine")
    words = (
        sys.executable,
        "-m",
        "stages",
        "prune",
        "demo",
        "--variant",
        "first",
        "--seeds",
        "0-1",
    )
    project.run(folder, *words)
    assert (folder / "work/demo/teach/more.txt").is_file()


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


@pytest.mark.long
def test_a_disk_that_is_full_loses_nothing(small_disk: Path, made: Path) -> None:
    """Full at many moments: kilobytes are left for ever more of the run."""
    folder = project.make(small_disk / "p")
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
        heal(folder, print)
    project.repro(folder)
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
    now.write_text(str(jump))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert project.outputs(folder) == project.outputs(made)
    for receipt in (folder / "receipts/demo").glob("*.json"):
        assert 0 <= read_json(receipt)["seconds"] < 300
    assert (
        "nothing has changed" in project.run(folder, sys.executable, "-m", "stages", "repro").stdout
    )
