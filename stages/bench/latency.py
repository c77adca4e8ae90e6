"""Latency and memory of ONNX files on ONNX Runtime, on a machine that is never quite still.

A round starts one fresh process per network, lets them load, and then has them take turns
(A, B, C, A, B, C, …), one timed run each: whatever slows the machine meanwhile slows neighbours
alike, and their ratio is far steadier than either time. (The same network against itself, six
rounds on a busy machine: within 3 % of 1 with 40 turns of one run, between 0.5 and 1.3 with three
turns of five.) What a process keeps for its life, such as where its memory lies, is drawn anew
each round, so that the spread over rounds holds it too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.bench.child import Child


@dataclass(frozen=True)
class Plan:
    """How often to measure.

    Attributes:
        rounds: how often every network gets a fresh process.
        repeats: turns of every network in a round; one timed run each.
        warmup: untimed runs before each timed one, which bring its data back into the caches.
    """

    rounds: int
    repeats: int
    warmup: int


@dataclass(frozen=True)
class Timing:
    """One network on a number of threads in one round."""

    name: str
    threads: int
    round: int
    milliseconds: tuple[float, ...]
    disturbed: int
    """How many of these waited for a core because other programs held it."""
    peak_mb: float
    """Peak of the whole process: interpreter, runtime and network (10^6 bytes)."""
    model_mb: float
    """The part of it above what the process held before it loaded the network."""
    runtime: str

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)


@dataclass(frozen=True)
class Spread:
    """Middle and quartiles of a sample."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The 25th, 50th and 75th percentile of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)


def measure(
    models: Mapping[str, Path],
    shapes: Mapping[str, Sequence[int]],
    threads: int,
    plan: Plan,
    after_round: Callable[[], object] = lambda: None,
) -> list[Timing]:
    """Time networks against each other.

    Args:
        models: name -> ONNX file.
        shapes: input name -> shape, the same for all; they get float32 noise.
        threads: threads of the runtime.
        plan: how often.
        after_round: called when a round is done.

    Returns:
        One entry per round and network, in that order.

    Raises:
        RuntimeError: a process failed; the message holds what it printed.
    """
    timings = []
    for number in range(plan.rounds):
        timings += _round(models, shapes, threads, plan, number)
        after_round()
    return timings


def _round(
    models: Mapping[str, Path],
    shapes: Mapping[str, Sequence[int]],
    threads: int,
    plan: Plan,
    number: int,
) -> list[Timing]:
    from stages.bench import worker as program

    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Child(program.__name__, {"OMP_NUM_THREADS": "1"}))
            for name in models
        }
        inputs = {name: list(shape) for name, shape in shapes.items()}
        for name, worker in workers.items():  # they start side by side
            model = str(models[name].resolve())
            worker.send(do="open", model=model, shapes=inputs, threads=threads)
        runtimes = {name: worker.receive()["runtime"] for name, worker in workers.items()}
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
        for _ in range(plan.repeats):
            for name, worker in workers.items():
                runs[name].append(worker.ask(do="run", warmup=plan.warmup))
        timings = []
        for name, worker in workers.items():
            memory = worker.ask(do="memory")
            timings.append(
                Timing(
                    name=name,
                    threads=threads,
                    round=number,
                    milliseconds=tuple(run["nanoseconds"] / 1e6 for run in runs[name]),
                    disturbed=sum(run["disturbed"] for run in runs[name]),
                    peak_mb=memory["peak"] / 1e6,
                    model_mb=(memory["peak"] - memory["baseline"]) / 1e6,
                    runtime=runtimes[name],
                )
            )
        return timings
