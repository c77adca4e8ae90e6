"""Takes lines out of the spool and hands them to MLflow; used by the sender and by `track`."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stages.core.files import remove
from stages.core.tracking.locks import is_held
from stages.core.tracking.spool import home

CHUNK = 256 * 1024
"""Bytes read at a time (some 3000 points): the sender looks up in between to see if it must go."""
PAUSE = 0.5
"""Seconds before a line that a healthy server refused is tried once more."""

log = logging.getLogger("retort.tracking")


class ServerAway(Exception):
    """The tracking server cannot be reached or takes nothing; what is spooled is kept."""


class Sink(Protocol):
    """Where events go (MLflow)."""

    def send(self, header: dict[str, Any], events: list[dict[str, Any]], files: Path) -> None: ...


@dataclass
class _Reader:
    """How far one spool file has been sent, and what its run is."""

    path: Path
    offset: int = 0
    header: dict[str, Any] | None = None
    closed: bool = False

    @property
    def mark(self) -> Path:
        return self.path.with_suffix(".offset")

    @property
    def files(self) -> Path:
        return self.path.with_suffix(".files")

    def resume(self) -> None:
        """Take up where an earlier sender stopped."""
        if self.mark.is_file():
            sent = int(self.mark.read_text() or 0)
            self.offset = sent if sent <= self.path.stat().st_size else 0
            with self.path.open("rb") as opened:
                self.note(_parse(opened.read(self.offset)))

    def note(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["e"] == "open":
                self.header, self.closed = event, False
            elif event["e"] == "close":
                self.closed = True

    def advance(self, to: int) -> None:
        self.offset = to
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(str(to))
        os.replace(temporary, self.mark)


class Drain:
    """Sends what the spools of one project hold.

    Args:
        root: the project's root.
        connect: makes the sink; called when there is first something to send.
    """

    def __init__(self, root: Path, connect: Callable[[], Sink]) -> None:
        self.folder, self.connect = home(root), connect
        self.sink: Sink | None = None
        self.readers: dict[str, _Reader] = {}
        self.ended = 0
        self.left_out = 0

    def step(self) -> int:
        """Send at most one chunk of each spool and clear away those that are done.

        Returns:
            How many lines were sent.

        Raises:
            ServerAway: nothing was lost; the spools stay.
        """
        moved = 0
        for path in sorted(self.folder.glob("*.jsonl")):
            try:
                if path.stem not in self.readers:
                    reader = _Reader(path)
                    reader.resume()
                    self.readers[path.stem] = reader
                moved += self._one(self.readers[path.stem])
            except FileNotFoundError:  # `make clean`
                self.readers.pop(path.stem, None)
        return moved

    def empty(self) -> None:
        """Send everything that is there now (a living stage goes on writing).

        Raises:
            ServerAway: nothing was lost; the spools stay.
        """
        sizes = [path.stat().st_size for path in self.folder.glob("*.jsonl")]
        for _ in range(2 + max(sizes, default=0) // CHUNK):
            self.step()

    def live(self) -> int:
        """How many spools have a stage that still writes them."""
        return sum(is_held(path) for path in self.folder.glob("*.jsonl"))

    def _one(self, reader: _Reader) -> int:
        with reader.path.open("rb") as opened:
            opened.seek(reader.offset)
            data = opened.read(CHUNK)
            while b"\n" not in data and (more := opened.read(CHUNK)):
                data += more
        whole = data[: data.rfind(b"\n") + 1]
        if whole:
            events = _parse(whole)
            self._deliver(reader, events)
            reader.note(events)
            reader.advance(reader.offset + len(whole))
            return len(events)
        self._finish(reader)
        return 0

    def _deliver(self, reader: _Reader, events: list[dict[str, Any]]) -> None:
        first = next((e for e in events if e["e"] == "open"), None)
        header = reader.header or first
        if header is None:  # a file that lost its beginning cannot be told to belong to a run
            log.error("%s does not begin with its run; left out", reader.path.name)
            self.left_out += len(events)
            return
        sink = self.connected()
        try:
            sink.send(header, events, reader.files)
        except ServerAway:
            self.sink = None
            raise
        except Exception:
            log.exception("%s: not taken as a whole; sending line by line", reader.path.name)
            self._deliver_singly(sink, reader, header, events)

    def connected(self) -> Sink:
        """The sink.

        Raises:
            ServerAway: it cannot be had now.
        """
        if self.sink is None:
            try:
                self.sink = self.connect()
            except ServerAway:
                raise
            except Exception as error:
                log.exception("no connection")
                raise ServerAway(f"{type(error).__name__}: {error}".splitlines()[0]) from error
        return self.sink

    def _deliver_singly(
        self, sink: Sink, reader: _Reader, header: dict[str, Any], events: list[dict[str, Any]]
    ) -> None:
        """Lines are safe to send twice; the ones that are refused twice are left out."""
        bad = 0
        for event in events:
            header = event if event["e"] == "open" else header
            for last in (False, True):
                try:
                    sink.send(header, [event], reader.files)
                    break
                except ServerAway:
                    raise
                except Exception as error:
                    if not last:
                        time.sleep(PAUSE)
                        continue
                    bad += 1
                    log.error("left out %s: %s", json.dumps(event)[:500], error)
        if bad == len(events):
            raise ServerAway("it answers, but refuses what is sent; see work/.logs/tracking.log")
        self.left_out += bad

    def _finish(self, reader: _Reader) -> None:
        """Clear a spool away whose writer is gone and whose lines are all sent."""
        with reader.path.open("rb") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            opened.seek(reader.offset)
            if b"\n" in opened.read():  # written since we looked
                return
            if reader.header and not reader.closed:
                ended = int(reader.path.stat().st_mtime * 1000)
                event = {"e": "close", "status": "KILLED", "message": "killed", "t": ended}
                self._deliver(reader, [event])
            # In this order: a kill in between sends lines twice, which changes nothing, but never
            # skips lines of a later run of the same key.
            reader.mark.unlink(missing_ok=True)
            reader.path.unlink(missing_ok=True)
            remove(reader.files)
        del self.readers[reader.path.stem]
        self.ended += 1


def _parse(data: bytes) -> list[dict[str, Any]]:
    events = []
    for line in data.splitlines():
        try:
            event = json.loads(line)
            event["e"]
        except (ValueError, KeyError, TypeError):
            log.error("left out a broken line: %r", line[:200])
            continue
        events.append(event)
    return events
