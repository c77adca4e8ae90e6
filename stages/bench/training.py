"""Processor time and memory of one training step, each network in a fresh process.

Memory is the peak of what torch's CPU allocator holds: weights, gradients, optimiser state and
activations. It is the figure that papers report from a GPU (`max_memory_allocated`), and it is
exact to the byte on any machine. Resident memory is measured beside it, as a check: the rise of a
warm step above what was resident just before it. It needs one heap whose large blocks go back to
the system at once (`HEAP` below); with glibc's defaults it wandered by 15 %, and the growing
threshold for such blocks made the same step look 20 % larger. Like this, it differs between runs
by 1 %, and from the allocator's figure for the same step by 2 %.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from stages.bench import training_worker
from stages.bench.child import Child

HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""Settings of glibc's heap for processes whose resident memory is read; ignored elsewhere."""


@dataclass(frozen=True)
class StepCost:
    """What a training step of one network takes."""

    name: str
    milliseconds: tuple[float, ...]
    """Processor time of each step, summed over threads."""
    allocated_mb: float
    """Peak of torch's allocator, the whole of training (10^6 bytes)."""
    resident_rise_mb: float | None
    """Largest rise of resident memory within a warm step (10^6 bytes); None off Linux."""

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)


def measure(
    entry: str,
    tasks: Mapping[str, Mapping[str, Any]],
    threads: int,
    warmup: int,
    repeats: int,
) -> list[StepCost]:
    """Measure training steps against each other; they take turns, one step each.

    Args:
        entry: "module:function"; the function returns a callable that takes one training step.
        tasks: name of a network -> the function's keyword arguments, plain values for JSON.
        threads: threads of torch.
        warmup: untimed steps at the start, at least one (the optimiser makes its state there).
        repeats: timed steps.

    Raises:
        RuntimeError: a process failed; the message holds what it printed.
    """
    environment = {**HEAP, "OMP_NUM_THREADS": str(threads), "KINETO_LOG_LEVEL": "5"}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Child(training_worker.__name__, environment))
            for name in tasks
        }
        for name, worker in workers.items():
            worker.send(do="open", entry=entry, arguments=dict(tasks[name]), threads=threads)
        for worker in workers.values():
            worker.receive()
        times: dict[str, list[float]] = {name: [] for name in tasks}
        for turn in range(repeats):
            for name, worker in workers.items():
                answer = worker.ask(do="run", warmup=warmup if turn == 0 else 0)
                times[name].append(answer["nanoseconds"] / 1e6)
        return [_cost(name, times[name], worker) for name, worker in workers.items()]


def _cost(name: str, times: Sequence[float], worker: Child) -> StepCost:
    memory = worker.ask(do="memory")
    rise = None if memory["rise"] is None else memory["rise"] / 1e6
    return StepCost(name, tuple(times), memory["allocated"] / 1e6, rise)
