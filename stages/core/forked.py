"""DVC without the wait: forked from a process that has it imported, which ends with ours.

What a stage runs through stays DVC's own command line; its start, half of what it takes, is saved.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

AHEAD = (
    "dvc.cli",
    "dvc.repo",
    "dvc.commands.repro",
    "dvc.repo.reproduce",
    "dvc.cachemgr",
    "dvc_objects.fs.local",
)
SERVER = "multiprocessing.forkserver"


def is_dvc(command: Sequence[str]) -> bool:
    """Whether a process with this command line is DVC, or is one that DVC is forked from."""
    return any(Path(word).name == "dvc" or SERVER in word for word in command)


class Dvc:
    """A DVC at work, in a session of its own.

    Args:
        words: its arguments.
        env: its whole environment.

    Attributes:
        pid: of it, and of its group.
    """

    def __init__(self, words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        # Each fork imports what the main module of ours imports; here that is done once.
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        main = [spec.name] if spec and not spec.name.endswith(".__main__") else []
        context.set_forkserver_preload([*AHEAD, *main])
        self._reader, writer = context.Pipe(duplex=False)
        own = (list(words), str(cwd), dict(env), writer)
        self._process = context.Process(target=_be_dvc, args=own, daemon=True)
        self._process.start()
        writer.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def lines(self) -> Iterator[str]:
        """What it and its stage print, until all that hold the pipe have ended."""
        with self._reader, open(self._reader.fileno(), closefd=False, errors="replace") as told:
            yield from told

    def wait(self) -> int:
        """Its exit code, or minus the number of the signal that ended it."""
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        return code


def _be_dvc(words: list[str], cwd: str, env: dict[str, str], out: Connection) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in ((0, nothing), (1, out.fileno()), (2, out.fileno())):
        os.dup2(stream, number)
    os.close(nothing)
    out.close()
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    from dvc.cli import main

    sys.exit(main(words))
