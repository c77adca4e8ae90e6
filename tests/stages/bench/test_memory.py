import subprocess
import sys

import pytest

from stages.bench import memory

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ASK = "from stages.bench import memory; print(memory.peak())"


def test_resident_is_below_peak():
    assert 0 < memory.resident() <= memory.peak() * 1.01


@LINUX
def test_the_peak_sees_what_was_freed_until_it_is_reset():
    assert memory.reset_peak()
    before = memory.peak()
    block = bytearray(80_000_000)
    del block
    assert memory.peak() - before > 70_000_000
    assert memory.reset_peak()
    assert memory.peak() - before < 40_000_000


@LINUX
def test_a_child_does_not_inherit_the_peak_of_a_large_parent(root):
    block = bytearray(b"x") * 300_000_000
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=root, capture_output=True, text=True, check=True
    )
    del block
    assert int(done.stdout) < 100_000_000
