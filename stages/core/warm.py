"""Stages without the wait: forked from a process that has the slow imports behind it.

Importing torch, pandas and matplotlib takes some 3 s, and a stage of a small profile less than
one. `make repro` therefore keeps one warm process beside DVC. DVC's command stays the same: the
door asks the warm process for a fork and passes on its streams, signals and exit code. Where there
is none, or it has gone, the door runs the stage itself, and the bytes are the same either way:

- only other people's packages are imported ahead, so that edited code is never missed;
- torch stays out of sight until a stage imports it: the door and SciPy look whether it is there;
- only a single-threaded process may be forked, so stages on several threads start cold, and so
  does bench, whose times and memory are those of a fresh process; but in the profile smoke, which
  asks only whether it runs.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

ADDRESS = "RETORT_WARM"
"""Environment variable: the socket of the warm process."""
START = "RETORT_START_CPU"
"""Environment variable, for the first fork: CPU seconds of the imports, which its receipt bears."""
COLD = "RETORT_COLD"
"""Environment variable: stages that start cold, with spaces between."""
MEASURED = "bench"
"""The stage that measures times and memory."""
AHEAD = (
    "numpy", "pandas", "pyarrow.parquet", "scipy.stats", "scipy.signal", "matplotlib.figure",
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "jinja2", "rich.table",
    "pydantic", "yaml", "safetensors.torch", "torch",
    "torch._inductor.config",  # imported by torch.use_deterministic_algorithms, in a second
)  # fmt: skip
FDS = 3
PR_SET_PDEATHSIG = 1


def ask(argv: Sequence[str]) -> int | None:
    """Have the warm process run `python -m stages <argv>`; None where that is not possible."""
    address = os.environ.get(ADDRESS)
    if not address or argv[0] in os.environ.get(COLD, MEASURED).split():
        return None
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    request = json.dumps({"argv": list(argv), "cwd": str(Path.cwd()), "env": dict(os.environ)})
    try:
        link.connect(address)
        socket.send_fds(link, [len(request.encode()).to_bytes(4, "big")], range(FDS))
        link.sendall(request.encode())
        answers = link.makefile("r")
        pid = int(answers.readline() or 0)
    except OSError:
        return None
    if not pid:
        return None

    def pass_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    signal.signal(signal.SIGINT, pass_on)
    signal.signal(signal.SIGTERM, pass_on)
    status = answers.readline()
    if not status:
        print("the warm process was killed, and this stage with it", file=sys.stderr)
        return 128 + signal.SIGKILL
    code = int(status)
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def kept(
    root: Path, common: Mapping[str, Any], env: Mapping[str, str] | None = None
) -> Iterator[dict[str, str]]:
    """Keep a warm process, with the environment `env`, while the block runs.

    Args:
        common: `common` of params.yaml.

    Yields:
        What to add to the environment of DVC.
    """
    if common["threads"] != 1 or not _possible():
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="retort-") as folder:
        address = str(Path(folder) / "warm")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(address)
            listener.listen()
            # Requests wait in the socket until the imports are done. A session of its own: Ctrl-C
            # reaches its forks through the door alone, once.
            server = subprocess.Popen(
                [sys.executable, "-m", "stages.core.warm", str(listener.fileno())],
                cwd=root,
                env=env,
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        try:
            yield {ADDRESS: address, COLD: "" if common["profile"] == "smoke" else MEASURED}
        finally:
            assert server.stdin
            server.stdin.close()
            server.wait()


def _possible() -> bool:
    """Whether the kernel gives handles of processes: Linux since 5.3, where nothing forbids it."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def serve(listener: socket.socket) -> list[str]:
    """Fork for every request, until the process that started us has gone and all forks have ended.

    Returns:
        In a fork: what it was asked to run. In the warm process: nothing, at the end.
    """
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ, "request")
    waiting.register(sys.stdin.fileno(), selectors.EVENT_READ, "starter")
    forks: dict[int, tuple[int, socket.socket]] = {}
    cost = time.process_time()
    open_for_more = True
    while open_for_more or forks:
        for key, _ in waiting.select():
            if key.data == "request":
                link, _ = listener.accept()
                with contextlib.suppress(OSError, ValueError):
                    request, streams = _request(link)
                    pid = os.fork()
                    if not pid:
                        waiting.close()
                        for item in (listener, link, *(other for _, other in forks.values())):
                            item.close()
                        return _become(request, streams, cost)
                    cost = 0.0
                    for stream in streams:
                        os.close(stream)
                    handle = os.pidfd_open(pid)
                    forks[pid] = handle, link
                    waiting.register(handle, selectors.EVENT_READ, pid)
                    waiting.register(link, selectors.EVENT_READ, -pid)
                    link.sendall(f"{pid}\n".encode())
            elif key.data == "starter":
                waiting.unregister(sys.stdin.fileno())
                waiting.unregister(listener)
                listener.close()
                open_for_more = False
            elif key.data < 0:
                # The door was killed: so is its stage, unless it ended at the same moment.
                if -key.data in forks:
                    waiting.unregister(key.fileobj)
                    os.kill(-key.data, signal.SIGKILL)
            else:
                handle, link = forks.pop(key.data)
                code = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
                waiting.unregister(handle)
                with contextlib.suppress(KeyError):
                    waiting.unregister(link)
                os.close(handle)
                with link, contextlib.suppress(OSError):
                    link.sendall(f"{code}\n".encode())
    return []


def _request(link: socket.socket) -> tuple[dict[str, object], list[int]]:
    size, streams, _, _ = socket.recv_fds(link, 4, FDS)
    with link.makefile("rb") as file:
        return json.loads(file.read(int.from_bytes(size, "big"))), streams


def _become(request: dict[str, object], streams: list[int], cost: float) -> list[str]:
    """Be the process that the door would have been: streams, folder, environment."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    os.environ.pop(ADDRESS)
    if cost:
        os.environ[START] = f"{cost:.2f}"
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1)
    return list(request["argv"])  # type: ignore[call-overload]


class Hidden(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Takes a loaded package out of sight; the next import of it puts it back, in no time."""

    def __init__(self, package: str) -> None:
        names = [n for n in sys.modules if n == package or n.startswith(package + ".")]
        self.package = package
        self.modules = {name: sys.modules.pop(name) for name in names}
        self.spec = self.modules[package].__spec__
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.package:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self.modules[self.package]

    def exec_module(self, module: ModuleType) -> None:
        sys.meta_path.remove(self)
        sys.modules.update(self.modules)
        module.__spec__ = self.spec  # ours had to stand in for it


def main(descriptor: int) -> int:
    """Import ahead, then serve; a fork goes on into the door."""
    from stages.core import environment

    environment.pin(1)
    for name in AHEAD:
        importlib.import_module(name)
    Hidden("torch")
    for name in [n for n in sys.modules if n.partition(".")[0] == "stages"]:
        del sys.modules[name]  # a fork imports our own code anew
    gc.collect()
    gc.freeze()  # the forks share these pages; a collection would touch them all
    argv = serve(socket.socket(fileno=descriptor))
    if not argv:
        return 0
    from stages.__main__ import main as door

    return door(argv)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
