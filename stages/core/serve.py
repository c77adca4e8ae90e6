"""`make serve`: MLflow, Prefect and the report, on loopback, until Ctrl-C.

With a `Lab`, MLflow and Prefect stand on PostgreSQL, ask for a password, and listen where it says.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rich.console import Console

from stages.core import lab_database
from stages.core.errors import UserError
from stages.core.lab import ADMIN, PASSWORD, REFUSED, Lab
from stages.core.tracking.address import (
    relocate,
    run_pages,
    server_command,
    server_name,
    tracking_uri,
)

HOST = "127.0.0.1"
START = 120.0
"""Seconds that a server may take to come up; some 15 on a laptop, more on its first start."""
QUIT = 10.0
"""Seconds that a server may take to end before it is killed."""


@dataclass(frozen=True, eq=False)
class Server:
    """A server that is run as a process.

    Attributes:
        health: path that answers 200 once it is up.
        log: file below work/.logs.
        hint: what programs that use it must be told.
    """

    name: str
    words: list[str]
    address: str
    health: str
    log: str
    env: Mapping[str, str]
    hint: str = ""


def serve(
    root: Path, mlflow_port: int, report_port: int, prefect_port: int, lab: Lab | None = None
) -> int:
    """Serve until Ctrl-C; a port that is taken is replaced by a free one.

    Args:
        root: the project's root.
        mlflow_port: wished for MLflow's pages.
        report_port: wished for `reports/`.
        prefect_port: wished for Prefect's page and its interface to workers.
        lab: how a lab's servers run; None for SQLite without passwords.

    Returns:
        0, or 1 where a server did not come up or ended by itself.

    Raises:
        UserError: a lab's database, address or password is not to be used as it is.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        with _report(root, report_port) as place, contextlib.ExitStack() as stack:
            missing = "" if (root / "reports/index.html").is_file() else " (empty: `make repro`)"
            console.print(f"report   http://{HOST}:{place}/  up{missing}")
            if lab:
                console.print(f"PostgreSQL  at {lab.place}: bringing databases up to date …")
                lab_database.prepare(root, lab)
                servers = _for_lab(root, lab, mlflow_port, prefect_port)
            else:
                servers = _own(root, mlflow_port, prefect_port, console)
            if not servers:
                threading.Event().wait()
            return _watch({s: stack.enter_context(_running(root, s)) for s in servers}, console)
    except KeyboardInterrupt:
        console.print("all servers have ended")
        return 0


def _own(root: Path, mlflow_port: int, prefect_port: int, console: Console) -> list[Server]:
    """The servers on SQLite, but for those that the environment says are elsewhere."""
    servers = []
    if tracking_uri(root).startswith("http"):
        named = server_name(root)
        console.print(f"MLflow   {named}  is where MLFLOW_TRACKING_URI points")
    else:
        relocate(root)
        servers.append(_mlflow(root, _free(mlflow_port)))
    if os.environ.get("PREFECT_API_URL"):
        console.print("Prefect  is where PREFECT_API_URL points")
    else:
        servers.append(_prefect(root, _free(prefect_port)))
    return servers


def _for_lab(root: Path, lab: Lab, mlflow_port: int, prefect_port: int) -> list[Server]:
    """The servers on PostgreSQL, with passwords."""
    try:
        ports = [_free(port, lab.host) for port in (mlflow_port, prefect_port)]
    except OSError as error:
        raise UserError(f"--host {lab.host}: nothing can listen there: {error}") from None
    mlflow, prefect = _mlflow(root, ports[0], lab.host), _prefect(root, ports[1], lab.host)
    lab.log_in(mlflow.address)
    user = f"MLFLOW_TRACKING_USERNAME={ADMIN} MLFLOW_TRACKING_PASSWORD=${PASSWORD}"
    return [
        replace(
            mlflow,
            words=lab.mlflow_words(ports[0]),
            env={**mlflow.env, **lab.mlflow_env(root)},
            hint=f"for stages: MLFLOW_TRACKING_URI={mlflow.address} {user}",
        ),
        replace(
            prefect,
            env={**prefect.env, **lab.prefect_env()},
            hint=f"{prefect.hint} PREFECT_API_AUTH_STRING={ADMIN}:${PASSWORD}",
        ),
    ]


def _mlflow(root: Path, port: int, host: str = HOST) -> Server:
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    quiet["MLFLOW_BACKEND_STORE_URI"] = tracking_uri(root)
    # No jobs for language models: they would cost a second process.
    quiet["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    words = server_command(root, port)
    return Server("MLflow", words, f"http://{host}:{port}", "/health", "mlflow.log", quiet)


def _prefect(root: Path, port: int, host: str = HOST) -> Server:
    address = f"http://{host}:{port}"
    env = {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{root.resolve()}/prefect.db",
        # What its page asks; at another port than 4200 the page would not find it by itself.
        "PREFECT_UI_API_URL": os.environ.get("PREFECT_UI_API_URL") or f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    words = [sys.executable, "-m", "prefect", "server", "start"]
    words += ["--host", host, "--port", str(port)]
    hint = f"for `prefect` and workers: PREFECT_API_URL={address}/api"
    return Server("Prefect", words, address, "/api/health", "prefect.log", env, hint)


def _watch(running: dict[Server, subprocess.Popen[bytes]], console: Console) -> int:
    """Say of each server when it is up; wait until one ends."""
    names = " and ".join(server.name for server in running)
    console.print(f"{names} starting …")
    begun, waiting = time.monotonic(), list(running)
    while waiting:
        for server in [s for s in waiting if _healthy(s)]:
            waiting.remove(server)
            spent = time.monotonic() - begun
            console.print(f"{server.name:8} {server.address}/  up after {spent:.0f} s")
            _more(server, console)
        late = time.monotonic() - begun > START
        for server in waiting:
            if late or running[server].poll() is not None:
                console.print(f"{server.name}  did not come up; its log is work/.logs/{server.log}")
                return 1
        time.sleep(0.2)
    console.print("Ctrl-C ends all")
    while True:
        for server, process in running.items():
            if process.poll() is not None:
                said = f"has ended by itself; its log is work/.logs/{server.log}"
                console.print(f"{server.name}  {said}")
                return 1
        time.sleep(0.5)


def _more(server: Server, console: Console) -> None:
    """What to tell programs that use a server, and where the pages are that people come for."""
    if server.hint:
        console.print(f"         {server.hint}")
    if server.name == "Prefect":
        return
    # The start page opens on MLflow's tools for language models: these are the tables of runs.
    try:
        pages = list(run_pages(server.address))
    except urllib.error.HTTPError as error:
        if error.code not in REFUSED:
            raise
        raise UserError(f"MLflow at {server.address}: {REFUSED[error.code]}") from None
    for paper, page in pages:
        console.print(f"         {page}  {paper}")
    if not pages:
        console.print("         no runs yet: stages record them as they run")


@contextlib.contextmanager
def _report(root: Path, wished: int) -> Iterator[int]:
    """Serve `reports/` from a thread; give the port."""
    handler = functools.partial(_Quiet, directory=str(root / "reports"))
    try:
        server = ThreadingHTTPServer((HOST, wished), handler)
    except OSError:
        server = ThreadingHTTPServer((HOST, 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line in the terminal for each."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def _running(root: Path, server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process group of its own, all of which ends with the block."""
    logs = root / "work/.logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / server.log).open("wb") as book:
        process = subprocess.Popen(
            server.words,
            cwd=root,
            env={**os.environ, **server.env},
            stdin=subprocess.DEVNULL,
            stdout=book,
            stderr=book,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(process, number)
            deadline = time.monotonic() + QUIT
            while _signal(process, 0) and time.monotonic() < deadline:
                time.sleep(0.1)


def _signal(server: subprocess.Popen[bytes], number: int) -> bool:
    """Signal the server's process group; whether there still is one."""
    server.poll()  # a child that has ended but is not taken leave of counts as alive
    try:
        os.killpg(server.pid, number)
    except ProcessLookupError:
        return False
    return True


def _free(wished: int, host: str = HOST) -> int:
    """`wished` where it can be bound, else a port that is free now."""
    for port in (wished, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    raise OSError("no port is free, or the address is not this machine's")


def _healthy(server: Server) -> bool:
    try:
        with urllib.request.urlopen(server.address + server.health, timeout=2) as answer:
            return int(answer.status) == 200
    except (OSError, urllib.error.URLError):
        return False
