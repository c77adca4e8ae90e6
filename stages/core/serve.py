"""`make serve`: MLflow's pages and the report, on loopback, until Ctrl-C."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rich.console import Console

from stages.core.tracking.address import (
    relocate,
    run_pages,
    server_command,
    server_name,
    tracking_uri,
)

HOST = "127.0.0.1"
START = 120.0
"""Seconds that MLflow may take to come up; some 15 on a laptop, more on its first start."""
QUIT = 10.0
"""Seconds that MLflow may take to end before it is killed."""


def serve(root: Path, mlflow_port: int, report_port: int) -> int:
    """Serve until Ctrl-C; a port that is taken is replaced by a free one.

    Args:
        root: the project's root.
        mlflow_port: wished for MLflow's pages.
        report_port: wished for `reports/`.

    Returns:
        0, or 1 where MLflow's server did not come up or ended by itself.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        with _report(root, report_port) as place:
            missing = "" if (root / "reports/index.html").is_file() else " (empty: `make repro`)"
            console.print(f"report  http://{HOST}:{place}/  up{missing}")
            if tracking_uri(root).startswith("http"):
                console.print(f"MLflow  {server_name(root)}  is where MLFLOW_TRACKING_URI points")
                threading.Event().wait()
            relocate(root)
            port = _free(mlflow_port)
            with _mlflow(root, port) as server:
                return _watch(root, server, f"http://{HOST}:{port}", console)
    except KeyboardInterrupt:
        console.print("both servers have ended")
        return 0


def _watch(root: Path, server: subprocess.Popen[bytes], address: str, console: Console) -> int:
    """Say when MLflow is up and where the papers' runs are; wait for its end."""
    console.print("MLflow  starting …")
    start = time.monotonic()
    while server.poll() is None and not _healthy(address):
        if time.monotonic() - start > START:
            break
        time.sleep(0.2)
    if not _healthy(address):
        console.print("MLflow  did not come up; its log is work/.logs/mlflow.log")
        return 1
    # The start page opens on MLflow's tools for language models: these are the tables of runs.
    pages = list(run_pages(address))
    console.print(f"MLflow  {address}/  up after {time.monotonic() - start:.0f} s")
    for paper, page in pages:
        console.print(f"        {page}  {paper}")
    if not pages:
        console.print("        no runs yet: stages record them as they run")
    console.print("Ctrl-C ends both")
    server.wait()
    console.print("MLflow  has ended by itself; its log is work/.logs/mlflow.log")
    return 1


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
def _mlflow(root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server in a process group of its own, all of which ends with the block."""
    logs = root / "work/.logs"
    logs.mkdir(parents=True, exist_ok=True)
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    # No jobs for language models: they would cost a second process.
    quiet["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with (logs / "mlflow.log").open("wb") as book:
        server = subprocess.Popen(
            server_command(root, port),
            cwd=root,
            env={**os.environ, **quiet},
            stdin=subprocess.DEVNULL,
            stdout=book,
            stderr=book,
            start_new_session=True,
        )
    try:
        yield server
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(server, number)
            deadline = time.monotonic() + QUIT
            while _signal(server, 0) and time.monotonic() < deadline:
                time.sleep(0.1)


def _signal(server: subprocess.Popen[bytes], number: int) -> bool:
    """Signal the server's process group; whether there still is one."""
    server.poll()  # a child that has ended but is not taken leave of counts as alive
    try:
        os.killpg(server.pid, number)
    except ProcessLookupError:
        return False
    return True


def _free(wished: int) -> int:
    """`wished` where it can be bound, else a port that is free now."""
    for port in (wished, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise OSError("no free port on loopback")


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return int(answer.status) == 200
    except (OSError, urllib.error.URLError):
        return False
