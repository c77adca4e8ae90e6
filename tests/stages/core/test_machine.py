"""What may be leased: against a stand-in for nvidia-smi."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stages.core.machine import cores, gpus

LISTED = """0, GPU-aaaa-1, 79000
1, GPU-bbbb-2, 78000
2, GPU-cccc-3, 2000
3, GPU-dddd-4, 80000"""


@pytest.mark.parametrize(
    ("visible", "found"),
    [(None, [0, 1, 3]), ("1,2", [1]), ("2", [2]), ("GPU-dddd, GPU-aaaa", [0, 3]), ("", [])],
)
def test_gpus_that_are_hidden_or_in_use_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[int]
) -> None:
    stand_in = tmp_path / "nvidia-smi"
    stand_in.write_text(f"#!/bin/sh\ncat <<E\n{LISTED}\nE\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert sorted(gpus("auto")) == found
    assert gpus("auto").get(0, 79000 * 2**20) == 79000 * 2**20
    assert gpus("cpu") == {}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="of Linux alone")
def test_cores_are_those_that_we_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores() == len(before)
