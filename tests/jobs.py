"""A job without the door, for tests of what a stage does with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.core.dag import Node
from stages.core.job import Job
from stages.core.tracking.spool import NullTracker


@contextmanager
def for_tests(root: Path, node: Node, seeds: tuple[int, ...] = (0,)) -> Iterator[Job]:
    """A job on the CPU without tracking, whose log is the standard one."""
    resume = root / ".resume"
    resume.mkdir(parents=True, exist_ok=True)
    yield Job(root, node, seeds, "cpu", resume, logging.getLogger("retort"), NullTracker())
