"""One network in ONNX Runtime, in a process of its own that holds nothing else.

Run by `stages.bench.latency` as `python -m stages.bench.worker`; it must not import torch, whose
few hundred megabytes would hide the network's own memory.
"""

from __future__ import annotations

import gc
import math
import time
from typing import Any

import numpy as np
import onnxruntime

from stages.bench import memory, scheduler
from stages.bench.child import serve

SETTINGS = {
    "session.intra_op.allow_spinning": "1",  # the default, and the faster on two threads
    # Threads stop spinning when a run ends: a worker that waits for its turn must not take a core.
    "session.force_spinning_stop": "1",
}
"""Entries of the session's configuration, the same for every network, recorded with the result."""


WAIT = 0.02
"""Share of a run's time that its threads may wait for a core, taken together."""
TRIES = 10
"""Tries to get a run that did not wait longer."""


class Worker:
    """Holds a session between requests; every method answers one kind of request."""

    def __init__(self) -> None:
        self.session: onnxruntime.InferenceSession
        self.feeds: dict[str, np.ndarray] = {}
        self.baseline = 0

    def open(self, model: str, shapes: dict[str, list[int]], threads: int) -> dict[str, Any]:
        """Load the file `model`; its inputs are float32 noise of the given shapes."""
        generator = np.random.default_rng(0)
        self.feeds = {
            name: 0.1 * generator.standard_normal(shape, dtype=np.float32)
            for name, shape in shapes.items()
        }
        memory.reset_peak()
        self.baseline = memory.resident()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        for key, value in SETTINGS.items():
            options.add_session_config_entry(key, value)
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        return {"runtime": f"onnxruntime {onnxruntime.__version__}"}

    def run(self, warmup: int) -> dict[str, Any]:
        """Run `warmup` times, then once with a clock (answered in nanoseconds).

        A run that had to wait for a core is no measure of the network, and not even a fair one: a
        long run is interrupted more often than a short one, which made a network with 0.7 times
        the arithmetic look four times as fast. It is tried again; when no try goes undisturbed,
        the one that waited least is given.
        """
        best, least = 0, math.inf
        for _ in range(TRIES):
            for _ in range(warmup):
                self.session.run(None, self.feeds)
            before = scheduler.waited()
            start = time.perf_counter_ns()
            self.session.run(None, self.feeds)
            passed = time.perf_counter_ns() - start
            waited = scheduler.waited() - before
            if waited < least:
                best, least = passed, waited
            if least <= WAIT * best:
                break
        return {"nanoseconds": best, "disturbed": least > WAIT * best}

    def memory(self) -> dict[str, Any]:
        """Peak resident bytes since before loading, and what was resident then."""
        return {"peak": memory.peak(), "baseline": self.baseline}


if __name__ == "__main__":
    gc.disable()  # a collection in the middle of a run would be counted as the network's
    worker = Worker()
    serve({"open": worker.open, "run": worker.run, "memory": worker.memory})
