"""A fresh Python process that is asked questions, one JSON line each way."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """Runs `python -m <module>` from the project's root; a context manager that ends it.

    It starts as a new program, not as a fork, so that it holds nothing of this process. It ends by
    itself when this process dies, because its input closes.
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.module = module
        # Closed in `close`. A file, as a pipe that nobody reads would block the child.
        self._errors = tempfile.TemporaryFile(  # noqa: SIM115
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", **environment},
            encoding="utf-8",
        )

    def send(self, **request: Any) -> None:
        """Send a request; `receive` its answer before the next."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `receive` finds no answer and tells why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for the answer to the last request.

        Raises:
            RuntimeError: the process ended; the message holds the end of what it printed.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        self._errors.seek(0)
        tail = self._errors.read()[-2000:].strip()
        raise RuntimeError(f"{self.module} ended with code {code}:\n{tail}")

    def ask(self, **request: Any) -> dict[str, Any]:
        """`send`, then `receive`."""
        self.send(**request)
        return self.receive()

    def close(self) -> None:
        """End the process and wait for it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(operations: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer requests on standard input until it closes: the child's side of `Child`.

    `{"do": name, ...}` calls `operations[name](**the rest)`. Whatever else is printed, by Python or
    by native code, goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        answer = operations[request.pop("do")](**request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
