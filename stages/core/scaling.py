"""`python -m stages scale`: how long many papers would take on many machines, on paper.

A simulation of the flow on workers that have a clone each and exchange results through a remote.
What each stage takes, and how much it writes, is read from the receipts; what DVC and a network
cost is stated and may be set. Papers beyond those that there are repeat them; more seeds repeat
the stages that run over seeds.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stages.core import dag, receipts
from stages.core.errors import UserError
from stages.core.params import read_yaml
from stages.core.schedule import WHOLE, Schedule

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Costs:
    """What a stage costs beside its own work; the defaults were measured on two cores.

    Attributes:
        start: seconds of DVC and of the door at each stage, on the worker.
        record: seconds that the caller holds DVC's lock for each stage: it pulls the result and
            writes dvc.lock.
        worker, remote: MB/s of a worker's line, and of the remote for all of them together.
    """

    start: float = 3.5
    record: float = 1.5
    worker: float = 50.0
    remote: float = 200.0


@dataclass(frozen=True)
class Work:
    """A stage to be simulated.

    Attributes:
        seconds: of its own work.
        reads, writes: MB.
        alone: runs on the caller's device, one at a time.
    """

    node: dag.Node
    seconds: float
    reads: float
    writes: float
    alone: bool


@dataclass(frozen=True)
class Outcome:
    """
    Attributes:
        seconds: until all stages have ended.
        bounds: what each resource alone would need, in seconds; the largest is the limit.
    """

    workers: int
    seconds: float
    bounds: Mapping[str, float]

    @property
    def limit(self) -> str:
        return max(self.bounds, key=lambda name: self.bounds[name])


def scale(root: Path, papers: int, seeds: int, costs: Costs, console: Console) -> int:
    """Print the table for one to 256 workers.

    Args:
        papers: how many; more than there are repeat them.
        seeds: how often the stages that run over seeds are repeated.

    Raises:
        UserError: no stage has a receipt.
    """
    works = repeated(measured(root), papers, seeds)
    found = [simulate(works, count, costs) for count in WORKERS]
    hours = sum(work.seconds for work in works) / 3600
    console.print(
        f"{papers} papers, seeds × {seeds}: {len(works)} stages, {hours:.1f} h by receipts; "
        f"a stage costs {costs.start} s more on its worker and {costs.record} s of the caller's "
        f"lock; {costs.worker:.0f} MB/s a worker, {costs.remote:.0f} MB/s the remote"
    )
    table = Table(pad_edge=False)
    for name in ("workers", "hours", "times faster", "of the workers' time"):
        table.add_column(name, justify="right")
    table.add_column("limit")
    for own in found:
        faster = found[0].seconds / own.seconds
        share = f"{100 * faster / own.workers:.0f} %"
        row = (str(own.workers), f"{own.seconds / 3600:.2f}", f"{faster:.1f}", share, own.limit)
        table.add_row(*row)
    console.print(table)
    return 0


def measured(root: Path) -> list[Work]:
    """The stages that have a receipt, with what they took and how much they read and write."""
    values = read_yaml(root / "params.yaml")
    known = {
        node: receipt
        for paper in dag.papers(root)
        for node in dag.nodes(root, paper, values)
        if (receipt := receipts.read(root, node))
    }
    if not known:
        raise UserError("no stage has a receipt yet: `make repro` first")
    size = {out: receipt["output_mb"] for node, receipt in known.items() for out in node.outs}
    return [
        Work(
            node,
            receipt["cpu_seconds"],
            sum(mb for out, mb in size.items() if any(_within(out, dep) for dep in node.deps)),
            receipt["output_mb"],
            node.stage in WHOLE,
        )
        for node, receipt in known.items()
    ]


def _within(out: str, dep: str) -> bool:
    return out == dep or out.startswith(f"{dep}/")


def repeated(works: Sequence[Work], papers: int, seeds: int) -> list[Work]:
    """Copies of the papers, foundations once, under other names, and of their stages over seeds."""
    names = list(dict.fromkeys(w.node.paper for w in works if "/" not in w.node.paper))
    made = [w for w in works if "/" in w.node.paper]
    for number, name in zip(range(papers), itertools.cycle(names), strict=False):
        again = number // len(names)
        for work in (w for w in works if w.node.paper == name):
            copy = _renamed(work, name, f"{name}{again or ''}")
            times = seeds if work.node.seeds is not None else 1
            made += [_reseeded(copy, turn) for turn in range(times)]
    return made


def _renamed(work: Work, old: str, new: str) -> Work:
    def path(text: str) -> str:
        own = text.startswith((f"work/{old}/", f"reports/papers/{old}"))
        return text.replace(f"/{old}", f"/{new}", 1) if own else text

    node = work.node
    deps, outs = tuple(map(path, node.deps)), tuple(map(path, node.outs))
    return replace(work, node=replace(node, paper=new, deps=deps, outs=outs))


def _reseeded(work: Work, turn: int) -> Work:
    if not turn:
        return work
    node = work.node
    outs = tuple(f"{out}.{turn}" for out in node.outs)
    return replace(work, node=replace(node, seeds=f"{node.seeds}.{turn}", outs=outs))


def simulate(works: Sequence[Work], workers: int, costs: Costs) -> Outcome:
    """Run the stages on `workers` machines; the longest chain goes first.

    A stage reads its inputs from the remote, works, writes its outputs there, and counts as done
    when the caller has taken it over, one stage at a time. Transfers share the remote's line one
    after the other; no one is faster than its worker's.
    """
    by = {work.node.address: work for work in works}
    schedule = Schedule([w.node for w in works], {a: w.seconds for a, w in by.items()})
    ready = {a: len(above) for a, above in schedule.above.items()}
    waiting: dict[bool, list[tuple[float, str]]] = {False: [], True: []}
    free = {False: workers, True: 1}
    line = lock = now = 0.0
    events: list[tuple[float, int, str, str]] = []
    order = itertools.count()

    def queue(address: str) -> None:
        heapq.heappush(waiting[by[address].alone], (-schedule.chain[address], address))

    def at(time: float, what: str, address: str) -> None:
        heapq.heappush(events, (time, next(order), what, address))

    def moved(megabytes: float) -> float:
        nonlocal line
        line = max(line, now) + megabytes / costs.remote
        return max(line, now + megabytes / costs.worker)

    for address, above in ready.items():
        if not above:
            queue(address)
    while True:
        for kind, heap in waiting.items():
            while heap and free[kind]:
                address = heapq.heappop(heap)[1]
                free[kind] -= 1
                at(moved(by[address].reads), "work", address)
        if not events:
            break
        now, _, what, address = heapq.heappop(events)
        work = by[address]
        if what == "work":
            at(now + costs.start + work.seconds, "write", address)
        elif what == "write":
            at(moved(work.writes), "record", address)
        elif what == "record":
            free[work.alone] += 1
            lock = max(lock, now) + costs.record
            at(lock, "done", address)
        else:
            for later in schedule.below[address]:
                ready[later] -= 1
                if not ready[later]:
                    queue(later)
    return Outcome(workers, now, bounds(works, schedule, workers, costs))


def bounds(
    works: Sequence[Work], schedule: Schedule, workers: int, costs: Costs
) -> dict[str, float]:
    """Seconds below which no order of the stages can come, by what sets them."""
    chain = {w.node.address: w.seconds + costs.start + costs.record for w in works}
    longest: dict[str, float] = {}
    for address in sorted(schedule.chain, key=lambda a: schedule.chain[a]):
        below = schedule.below[address]
        longest[address] = chain[address] + max((longest.get(b, 0.0) for b in below), default=0.0)
    return {
        "the workers": sum(w.seconds + costs.start for w in works if not w.alone) / workers,
        "the longest chain": max(longest.values()),
        "the device that measures": sum(w.seconds + costs.start for w in works if w.alone),
        "the remote": sum(w.reads + w.writes for w in works) / costs.remote,
        "DVC's lock": len(works) * costs.record,
    }
