"""Processor time and memory of a piece of work that is done once, such as calibrating an arm.

Each run has a process of its own, in which all that is needed is loaded first; it is neither
counted as time nor as memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stages.bench.child import Child
from stages.bench.integer import once_worker
from stages.bench.training import HEAP


@dataclass(frozen=True)
class Cost:
    """What a piece of work takes.

    Attributes:
        seconds: processor time of each run, summed over threads.
        rises_mb: of resident memory within each run, 10^6 bytes; empty off Linux.
    """

    name: str
    seconds: tuple[float, ...]
    rises_mb: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Task:
    """A piece of work.

    Attributes:
        entry: "module:function"; the function loads what is needed and returns the work.
        arguments: its keyword arguments, plain values for JSON.
    """

    entry: str
    arguments: Mapping[str, Any]


def measure(
    tasks: Mapping[str, Task],
    threads: int,
    repeats: int,
    after_run: Callable[[], object] = lambda: None,
) -> list[Cost]:
    """Do each task `repeats` times.

    Args:
        tasks: by name.
        threads: threads of torch.
        after_run: called when a run is done.

    Raises:
        RuntimeError: a process failed; the message holds what it printed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    rises: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            environment = {**HEAP, "OMP_NUM_THREADS": str(threads)}
            with Child(once_worker.__name__, environment) as child:
                arguments = dict(task.arguments)
                child.ask(do="open", entry=task.entry, arguments=arguments, threads=threads)
                answer = child.ask(do="once")
            seconds[name].append(answer["nanoseconds"] / 1e9)
            if answer["rise"] is not None:
                rises[name].append(answer["rise"] / 1e6)
            after_run()
    return [Cost(name, tuple(seconds[name]), tuple(rises[name])) for name in tasks]
