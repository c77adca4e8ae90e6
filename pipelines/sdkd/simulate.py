"""Many trajectories, a batch at a time: in this process, or in several, and again after a kill.

A batch is a file in the job's resume folder, so a stage that was killed makes only those that are
missing. What is in it depends on the recipe, the seed and the batch's place alone: not on who made
it, in which order, or beside what.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from pipelines.sdkd.data import KEY
from pipelines.sdkd.navier_stokes import Recipe, trajectories
from stages.bench.child import Child, serve
from stages.core.errors import UserError
from stages.core.files import write_bytes

if TYPE_CHECKING:
    from stages.core.job import Job


@dataclass(frozen=True)
class Batch:
    """`count` trajectories of a split from number `first` on, and the file they go to."""

    split: str
    first: int
    count: int
    path: Path


def simulate(
    recipe: Recipe, counts: Mapping[str, int], seed: int, batch: int, workers: int, job: Job
) -> dict[str, Tensor]:
    """Simulate all splits.

    Args:
        counts: trajectories by split.
        seed: of the fields at time 0.
        batch: trajectories simulated at once; a few are fastest, as they stay in the cache.
        workers: processes of one thread each; 1 is this process itself, and so is a GPU.

    Returns:
        split -> (N, frames, size, size), float32.

    Raises:
        UserError: a trajectory is not finite.
    """
    folder = job.unit("simulation")
    batches = [
        Batch(split, first, min(batch, count - first), folder / f"{split}-{first:05d}.safetensors")
        for split, count in counts.items()
        for first in range(0, count, batch)
    ]
    left = [b for b in batches if not b.path.is_file()]
    on_gpu = job.device.type != "cpu"
    with job.progress(sum(counts.values()), "simulating") as bar:
        bar.advance(sum(counts.values()) - sum(b.count for b in left))
        if workers == 1 or on_gpu or len(left) < 2:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # as a worker has it
            try:
                for b in left:
                    _make(recipe, seed, b, job.device)
                    bar.advance(b.count)
            finally:
                torch.set_num_threads(threads)
        else:
            with ExitStack() as stack:
                children = [
                    stack.enter_context(Child(__name__, {"OMP_NUM_THREADS": "1"}))
                    for _ in range(min(workers, len(left)))
                ]
                # All batches take alike, so nobody waits long for the others of a round.
                for start in range(0, len(left), len(children)):
                    turn = list(zip(children, left[start:], strict=False))
                    for child, b in turn:
                        child.send(do="make", recipe=recipe.model_dump(), seed=seed, **_plain(b))
                    for child, b in turn:
                        if trouble := child.receive()["trouble"]:
                            raise UserError(trouble)
                        bar.advance(b.count)
    return {
        split: torch.cat([load_file(b.path)[KEY] for b in batches if b.split == split])
        for split in counts
    }


def _make(recipe: Recipe, seed: int, batch: Batch, device: torch.device) -> None:
    fields = trajectories(recipe, seed, batch.split, batch.first, batch.count, device)
    write_bytes(batch.path, save({KEY: fields}))


def _plain(batch: Batch) -> dict[str, Any]:
    return {
        "split": batch.split, "first": batch.first, "count": batch.count, "path": str(batch.path)
    }  # fmt: skip


def _answer(
    recipe: dict[str, Any], seed: int, split: str, first: int, count: int, path: str
) -> dict[str, Any]:
    """A worker's side of `simulate`."""
    batch = Batch(split, first, count, Path(path))
    try:
        _make(Recipe.model_validate(recipe), seed, batch, torch.device("cpu"))
    except UserError as error:
        return {"trouble": str(error)}
    return {"trouble": ""}


if __name__ == "__main__":
    from stages.core.environment import keep_freed_memory, make_deterministic

    make_deterministic(1)
    keep_freed_memory()
    serve({"make": _answer})
