"""What may run next: the graph of stages, what each needs of the machine, and what has ended.

Knows nothing of how a stage is run. The stage whose chain of successors takes longest by earlier
receipts goes first (critical-path scheduling), ties in the order of the dvc.yaml files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stages.core.dag import Node
from stages.core.recorded import overlap

State = Literal["waiting", "running", "ran", "cached", "failed", "left out"]
WHOLE = ("bench",)
"""Stages that have the machine to themselves, since they measure it."""
UNKNOWN_SECONDS = 60.0
"""Assumed of a stage without a receipt."""
LEAST_SECONDS = 600.0
"""A stage is ended when it takes longer than this and `PATIENCE` times its last run."""
PATIENCE = 10.0
LONGEST_SECONDS = 48 * 3600.0
"""When one is ended that has no receipt."""


@dataclass
class Machine:
    """What can be leased.

    Attributes:
        cores: free ones.
        slots: stages that may still be started beside those that run.
        gpus: device id -> bytes of free memory.
        busy: stages that run.
        others: slots of other machines, where there are some; what need not be here goes there.
        away: stages that run there.
    """

    cores: int
    slots: int
    gpus: dict[int, int] = field(default_factory=dict)
    busy: int = 0
    others: int | None = None
    away: int = 0

    def lease(self, need: Need) -> Lease | None:
        """What `need` asks for, or None where it is not free now."""
        if self.others is not None and not need.here:
            if self.away >= self.others:
                return None
            self.away += 1
            return Lease(0, 1, None, 0, here=False)
        if need.whole and self.busy:
            return None
        if self.slots < 1 or self.cores < need.cores:
            return None
        gpu = None
        if need.gpu_bytes:
            fits = [i for i, free in self.gpus.items() if free >= need.gpu_bytes]
            if not fits:
                return None
            gpu = min(fits, key=lambda i: (self.gpus[i], i))  # the fullest that still has room
            self.gpus[gpu] -= need.gpu_bytes
        cores, slots = (self.cores, self.slots) if need.whole else (need.cores, 1)
        self.cores -= cores
        self.slots -= slots
        self.busy += 1
        return Lease(cores, slots, gpu, need.gpu_bytes)

    def give_back(self, lease: Lease) -> None:
        if not lease.here:
            self.away -= 1
            return
        self.cores += lease.cores
        self.slots += lease.slots
        self.busy -= 1
        if lease.gpu is not None:
            self.gpus[lease.gpu] += lease.gpu_bytes


@dataclass(frozen=True)
class Need:
    """What a stage needs of the machine.

    Attributes:
        whole: whether nothing may run beside it.
        gpu_bytes: memory of one GPU; 0 for none.
        here: whether it must run on the caller's own machine.
    """

    cores: int
    whole: bool = False
    gpu_bytes: int = 0
    here: bool = False


@dataclass(frozen=True)
class Lease:
    """What a running stage holds; `gpu` is the id of its device."""

    cores: int
    slots: int
    gpu: int | None
    gpu_bytes: int
    here: bool = True


def _limit(seconds: float | None) -> float:
    return LONGEST_SECONDS if seconds is None else max(LEAST_SECONDS, PATIENCE * seconds)


class Schedule:
    """The stages of a run and how far each is.

    Args:
        nodes: in the order of the dvc.yaml files; a stage stands on those whose outputs it reads.
        seconds: by address, what a stage took last time.
        needs: by address; a stage that is not there needs one core.

    Attributes:
        limits: by address, seconds after which a stage is to be ended.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        seconds: Mapping[str, float],
        needs: Mapping[str, Need] | None = None,
    ) -> None:
        self.nodes = {node.address: node for node in nodes}
        self.states: dict[str, State] = dict.fromkeys(self.nodes, "waiting")
        self.needs = {
            a: (needs or {}).get(a, Need(1, whole=n.stage in WHOLE)) for a, n in self.nodes.items()
        }
        self.above: dict[str, list[str]] = {
            later.address: [
                earlier.address
                for earlier in nodes
                if earlier is not later
                and any(overlap(d, out) for d in later.deps for out in earlier.outs)
            ]
            for later in nodes
        }
        self.below: dict[str, list[str]] = {
            a: [b for b, above in self.above.items() if a in above] for a in self.nodes
        }
        self.limits = {a: _limit(seconds.get(a)) for a in self.nodes}
        self.seconds = {a: seconds.get(a, UNKNOWN_SECONDS) for a in self.nodes}
        self.chain = self._chains()

    def _chains(self) -> dict[str, float]:
        """Seconds of the longest chain that starts with each stage.

        Raises:
            ValueError: stages stand on each other in a circle.
        """
        found: dict[str, float] = {}
        left = dict.fromkeys(self.nodes)
        while left:
            ends = [a for a in left if all(b in found for b in self.below[a])]
            if not ends:
                raise ValueError(f"stages stand on each other in a circle: {', '.join(left)}")
            for a in ends:
                after = max((found[b] for b in self.below[a]), default=0.0)
                found[a] = self.seconds[a] + after
                del left[a]
        return found

    def ready(self) -> list[str]:
        """Stages that wait for no other, the most urgent first."""
        done = {a for a, state in self.states.items() if state in ("ran", "cached")}
        free = [
            a for a, own in self.states.items() if own == "waiting" and done >= {*self.above[a]}
        ]
        return sorted(free, key=lambda a: -self.chain[a])

    def start(self, machine: Machine) -> list[tuple[str, Lease]]:
        """Take what may run now out of the queue, with what each has leased.

        A stage that wants the whole machine and is the most urgent one holds back the others, so
        that it is not overtaken for ever.
        """
        taken = []
        for address in self.ready():
            lease = machine.lease(self.needs[address])
            if lease is not None:
                self.states[address] = "running"
                taken.append((address, lease))
            elif self.needs[address].whole and machine.others is None:
                break
        return taken

    def end(self, address: str, state: Literal["ran", "cached", "failed"]) -> list[str]:
        """Write down how a stage ended.

        Returns:
            What is left out because this failed.
        """
        self.states[address] = state
        if state != "failed":
            return []
        lost, found = [address], []
        while lost:
            for later in self.below[lost.pop()]:
                if self.states[later] == "waiting":
                    self.states[later] = "left out"
                    lost.append(later)
                    found.append(later)
        return found

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing can be started any more."""
        return not any(state in ("waiting", "running") for state in self.states.values())

    def left(self, jobs: int, spent: Mapping[str, float]) -> float:
        """Seconds until all has run, at best: no less than the longest chain, nor than all work
        spread over `jobs`.

        Args:
            spent: by address, seconds that a running stage has run.
        """
        rest = {
            a: max(0.0, self.seconds[a] - spent.get(a, 0.0))
            for a, state in self.states.items()
            if state in ("waiting", "running")
        }
        chains = (self.chain[a] - self.seconds[a] + own for a, own in rest.items())
        return max(sum(rest.values()) / jobs, max(chains, default=0.0))

    def count(self, state: State) -> int:
        return sum(own == state for own in self.states.values())
