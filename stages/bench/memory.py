"""Resident memory of the running process, in bytes, from the operating system.

`resource.getrusage().ru_maxrss` is not used on Linux: the kernel carries it over `exec`, so that a
small process started by a large one reports the large one's peak (seen here: 807 MB for a Python
of 9 MB). `VmHWM` belongs to the address space and starts anew.
"""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def _status(key: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {key}")


def resident() -> int:
    """Bytes of this process that are in memory now (its peak so far where /proc is missing)."""
    return _status("VmRSS") if _STATUS.exists() else _maximum()


def peak() -> int:
    """Largest resident size, in bytes, since the start or the last `reset_peak`."""
    return _status("VmHWM") if _STATUS.exists() else _maximum()


def reset_peak() -> bool:
    """Let `peak` count from now on; where the system cannot: False, and it counts on."""
    try:
        _CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _maximum() -> int:
    import resource
    import sys

    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024
