"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console

PLAIN_SECONDS = 10.0
"""Where no terminal is attached, a line is printed at most this often."""


class Progress(Protocol):
    def advance(self, n: int = 1, note: str = "") -> None: ...


class _Plain:
    def __init__(self, console: Console, total: int, label: str) -> None:
        self.console, self.total, self.label = console, total, label
        self.done, self.start = 0, time.monotonic()
        self.said = self.start

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self.said >= PLAIN_SECONDS or self.done >= self.total:
            self.said = now
            spent = now - self.start
            left = spent / max(self.done, 1) * (self.total - self.done)
            self.console.print(
                f"{self.label}: {self.done}/{self.total} {note} ({spent:.0f} s, {left:.0f} s left)",
                highlight=False,
                soft_wrap=True,
            )


class _Bar:
    def __init__(self, bar: object, task: object) -> None:
        self.bar, self.task = bar, task

    def advance(self, n: int = 1, note: str = "") -> None:
        self.bar.update(self.task, advance=n, note=note)  # type: ignore[attr-defined]


@contextmanager
def progress(total: int, label: str, console: Console | None = None) -> Iterator[Progress]:
    """Show `total` steps of work under `label`, with the time left."""
    console = console or Console()
    if not console.is_terminal:
        yield _Plain(console, total, label)
        return
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[note]}"),
    )
    with rich_progress.Progress(*columns, console=console, refresh_per_second=4) as bar:
        yield _Bar(bar, bar.add_task(label, total=total, note=""))
