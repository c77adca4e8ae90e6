"""How long the threads of this process waited for a core while they were ready to run."""

from __future__ import annotations

import os
from pathlib import Path

_TASKS = Path("/proc/self/task")


def waited() -> int:
    """Nanoseconds spent in the run queue so far, over all threads; 0 where /proc does not say."""
    if not _TASKS.is_dir():
        return 0
    total = 0
    for thread in os.listdir(_TASKS):  # noqa: PTH208 (called between timed runs: be quick)
        try:
            with open(f"{_TASKS}/{thread}/schedstat", encoding="ascii") as file:  # noqa: PTH123
                total += int(file.read().split()[1])
        except (OSError, IndexError):  # the thread has ended, or the kernel keeps no such count
            continue
    return total
