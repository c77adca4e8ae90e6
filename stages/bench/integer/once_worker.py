"""A piece of work in a process of its own; run by `stages.bench.integer.once`."""

from __future__ import annotations

from typing import Any

from stages.bench.child import serve
from stages.bench.training_worker import Worker


class Once(Worker):
    """A worker whose step is the whole work."""

    def once(self) -> dict[str, Any]:
        """Do it, with a clock, and say how far it raised resident memory."""
        return {**self.run(warmup=0), "rise": self.rise}


if __name__ == "__main__":
    worker = Once()
    serve({"open": worker.open, "once": worker.once})
