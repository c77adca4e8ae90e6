"""The machine that is measured on: what it is, and whether it had something else to do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from stages.bench.latency import Timing
from stages.core.files import read_json

BUSY = 0.1
"""Share of runs disturbed by other programs above which a log warns of the times."""


def device(root: Path) -> str:
    """The machine in a few words, from `work/device.json`."""
    found = read_json(root / "work/device.json")
    words = [found["cpu"], f"{found['cores']} cores", f"{found['memory_gb']} GB", found["os"]]
    return ", ".join(str(word) for word in words)


def warn_if_busy(timings: Sequence[Timing], log: logging.Logger) -> None:
    """Say in the log when other programs held the cores too often."""
    share = sum(t.disturbed for t in timings) / sum(len(t.milliseconds) for t in timings)
    if share > BUSY:
        log.warning(
            "%.0f %% of the timed runs had to wait for a core: other programs run on this machine, "
            "and the times may be off",
            100 * share,
        )
