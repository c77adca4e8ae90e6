"""One training step in a process of its own: how long it takes and how much memory.

Run by `stages.bench.training` as `python -m stages.bench.training_worker`.
"""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable
from typing import Any

from stages.bench import memory
from stages.bench.child import serve

Step = Callable[[], object]


class Worker:
    """Holds a training step between requests; every method answers one kind of request."""

    def __init__(self) -> None:
        self.build: Callable[[], Step]
        self.step: Step
        self.rise: int | None = None

    def open(self, entry: str, arguments: dict[str, Any], threads: int) -> dict[str, Any]:
        """Make the step: `entry` is "module:function", and `function(**arguments)` returns it."""
        from stages.core.environment import make_deterministic

        make_deterministic(threads)
        module, _, function = entry.partition(":")
        factory = getattr(importlib.import_module(module), function)
        self.build = lambda: factory(**arguments)
        self.step = self.build()
        return {}

    def run(self, warmup: int) -> dict[str, Any]:
        """Take `warmup` steps, then one with a clock; note how far it raises resident memory.

        The clock counts processor time, all threads together: a step is so long that on most
        machines some other program interrupts it.
        """
        for _ in range(warmup):
            self.step()
        countable = memory.reset_peak()
        before = memory.resident()
        start = time.process_time_ns()
        self.step()
        passed = time.process_time_ns() - start
        if countable:
            self.rise = max(self.rise or 0, memory.peak() - before)
        return {"nanoseconds": passed}

    def memory(self) -> dict[str, Any]:
        """Peak bytes of torch's CPU allocator over two steps from scratch, and the rise above.

        Two steps: the optimiser makes its state in the first, so that only the second one's peak
        holds weights, gradients, optimiser state and activations together.
        """
        from torch.profiler import ProfilerActivity, profile

        del self.step
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step = self.build()
            step()
            step()
        assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
        held = highest = 0
        for event in profiler.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                highest = max(highest, held)
        return {"allocated": highest, "rise": self.rise}


if __name__ == "__main__":
    worker = Worker()
    serve({"open": worker.open, "run": worker.run, "memory": worker.memory})
