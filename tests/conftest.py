"""What all tests share: the pinned environment, a small project, a job."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from stages.core import environment

environment.pin(1)
# Where the suite is started in the background SIGINT is ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["MPLBACKEND"] = "Agg"

import pytest  # noqa: E402

from stages.core.dag import Node  # noqa: E402
from stages.core.job import Job  # noqa: E402
from tests.jobs import for_tests  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """Stages flush them to zero, for the whole process; tests of other things need them."""
    yield
    if "torch" in sys.modules:
        import torch

        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout under test."""
    return ROOT


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A job of the stage `teach` of a paper `demo`, on the CPU, without tracking."""
    node = Node("demo", "teach", None, None, (), (), ())
    with for_tests(tmp_path, node) as made:
        environment.make_deterministic(1)
        yield made
