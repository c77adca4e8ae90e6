"""What a parallel run shows: a line per running stage, counts, the time left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.text import Text

from stages.core.schedule import Schedule

if TYPE_CHECKING:
    from stages.core.attempt import Outcome

PLAIN_SECONDS = 30.0
"""Where no terminal is attached, running stages are told at most this often."""
COLOURS = {"ran": "green", "cached": "cyan", "failed": "bold red"}


class Live:
    """Follows a schedule; use within `shown`."""

    def __init__(self, schedule: Schedule, jobs: int, console: Console) -> None:
        self.schedule, self.jobs, self.console = schedule, jobs, console
        self.last: dict[str, str] = {}
        self.begun: dict[str, float] = {}
        self.took: dict[str, float] = {}
        self.said = time.monotonic()

    def wait(self, for_what: str) -> None:
        """Say now and then that nothing can be started."""
        if time.monotonic() - self.said > PLAIN_SECONDS:
            self.said = time.monotonic()
            self.console.print(f"waiting for {for_what}")

    def __rich__(self) -> Group:
        running = [a for a, state in self.schedule.states.items() if state == "running"]
        lines = [
            Text.assemble((f"{self._name(a)} ", "bold"), f"{self._spent(a):.0f} s  ", (now, "dim"))
            for a in running
            for now in [self.last.get(a, "")]
        ]
        return Group(*lines, Text(self.counts()))

    def counts(self) -> str:
        """Such as `4 of 9 stages: 3 ran, 1 cached; about 2 min left`."""
        count = self.schedule.count
        ended = [f"{count(s)} {s}" for s in ("ran", "cached", "failed", "left out") if count(s)]
        done = sum(count(s) for s in ("ran", "cached", "failed", "left out"))
        told = f"{done} of {len(self.schedule.nodes)} stages"
        left = self.schedule.left(self.jobs, {a: self._spent(a) for a in self.begun})
        rest = f"; about {left / 60:.0f} min left" if left else ""
        return told + (f": {', '.join(ended)}" if ended else "") + rest

    def start(self, address: str) -> None:
        self.begun[address] = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(f"{self._name(address)}: started")

    def say(self, address: str, line: str) -> None:
        """A line of a stage's output; called from its own thread."""
        if line.strip():
            self.last[address] = line.strip()

    def tick(self) -> None:
        """Called again and again; where there is no terminal, tells of what runs now and then."""
        now = time.monotonic()
        if self.console.is_terminal or now - self.said < PLAIN_SECONDS:
            return
        self.said = now
        for address, state in self.schedule.states.items():
            if state == "running":
                self.console.print(f"{self._name(address)}: {self.last.get(address, 'started')}")
        self.console.print(self.counts())

    def end(self, address: str, outcome: Outcome, left_out: list[str]) -> None:
        self.begun.pop(address, None)
        self.took[address] = outcome.seconds
        colour = COLOURS[outcome.state]
        self.console.print(
            Text.assemble(
                f"{self._name(address)}: ", (outcome.state, colour), f" ({outcome.seconds:.1f} s)"
            )
        )
        if outcome.message:
            self.console.print(Text(outcome.message))
        if left_out:
            self.console.print(f"left out for it: {', '.join(map(self._name, left_out))}")

    def overhead(self, work: Mapping[str, float]) -> None:
        """Tell what running a stage took beside its work: DVC, starts, transfers.

        Args:
            work: by address, seconds of the last run of each stage.
        """
        ran = [a for a, state in self.schedule.states.items() if state == "ran" and a in work]
        if ran:
            median = statistics.median(self.took[a] - work[a] for a in ran)
            self.console.print(f"beside their own work stages took {median:.1f} s each (median)")

    def _spent(self, address: str) -> float:
        return time.monotonic() - self.begun[address] if address in self.begun else 0.0

    def _name(self, address: str) -> str:
        node = self.schedule.nodes[address]
        return f"{node.paper} {node.name}"


@contextmanager
def shown(live: Live) -> Iterator[Live]:
    """Show it at the foot of the terminal while the block runs."""
    if not live.console.is_terminal:
        yield live
        return
    from rich.live import Live as Foot

    with Foot(live, console=live.console, refresh_per_second=4):
        yield live
