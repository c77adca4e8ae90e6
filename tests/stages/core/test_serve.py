"""`make serve`: all servers come up on loopback, on free ports, and end with one Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

CODE = Path(__file__).parents[3]
PROGRAM = (
    "import sys; from pathlib import Path; from stages.core.serve import serve;"
    "sys.exit(serve(Path(sys.argv[1]), *map(int, sys.argv[2:])))"
)


ELSEWHERE = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())


def start(root: Path, ports: list[int], **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, str(root), *map(str, ports)],
        cwd=CODE,
        env={k: v for k, v in os.environ.items() if k not in ELSEWHERE} | env,
        stdout=subprocess.PIPE,
        text=True,
    )


def until(process: subprocess.Popen[str], word: str) -> list[str]:
    """Lines that it prints up to one with `word`."""
    assert process.stdout
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if word in line:
            return lines
    raise AssertionError(f"it ended without '{word}': {lines}")


@pytest.mark.slow
def test_all_come_up_on_free_ports_and_end_with_one_interrupt(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/index.html").write_text("<h1>board</h1>")
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
            each.listen()
        busy = [each.getsockname()[1] for each in taken]
        process = start(tmp_path, busy, PREFECT_HOME=str(tmp_path / "home"))
        try:
            lines = until(process, "Ctrl-C")
            up = {x.split()[0]: x.split()[1] for x in lines if " up" in x}
            report, mlflow, prefect = (up[name] for name in ("report", "MLflow", "Prefect"))
            addresses = [word for x in lines for word in x.split() if "http://" in word]
            assert not any(f":{port}/" in a for port in busy for a in addresses), lines
            assert all("http://127.0.0.1:" in a for a in addresses)
            assert any(f"PREFECT_API_URL={prefect}api" in line for line in lines)
            assert "board" in get(report) and get(mlflow + "health") == "OK"
            assert get(prefect + "api/health") == "true" and "<html" in get(prefect)
            assert json.loads(get(prefect + "ui-settings"))["api_url"] == f"{prefect}api"
            children = psutil.Process(process.pid).children(recursive=True)
            assert children
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0 and time.monotonic() - begin < 25
            assert "have ended" in (process.stdout.read() if process.stdout else "")
            assert not any(child.is_running() for child in children)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    assert (tmp_path / "mlflow.db").is_file() and (tmp_path / "prefect.db").is_file()


def test_servers_of_ones_own_are_pointed_to(tmp_path: Path) -> None:
    there = {"MLFLOW_TRACKING_URI": "http://me:secret@lab.example:5000"}
    process = start(tmp_path, [0, 0, 0], PREFECT_API_URL="http://lab.example:4200/api", **there)
    try:
        lines = until(process, "PREFECT_API_URL")
        assert "(empty: `make repro`)" in lines[0]
        assert "http://lab.example:5000" in lines[1] and "secret" not in lines[1]
        assert not psutil.Process(process.pid).children()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
