"""`make repro`: says what will run, runs it through DVC, names what could not run, shows the board.

DVC stays the only truth: this plans and reports, `dvc repro` decides and runs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from stages.core import checks, child, dag, environment, receipts, warm
from stages.core.attempt import BUSY, BUSY_SECONDS, BUSY_TOLD
from stages.core.errors import UserError
from stages.core.heal import heal
from stages.core.params import read_yaml
from stages.core.recorded import overlap

SPARE_GB = 1.0
"""Free space to keep beyond what the stages are expected to write."""
CALLER = "RETORT_CALLER"
"""Environment variable: id of the process that runs stages side by side."""


def reproduce(root: Path, papers: list[str], jobs: int = 1, cluster: str | None = None) -> int:
    """Run what must run of `papers` (all when empty) and print the claims board.

    Args:
        jobs: stages at a time; with more than one, Prefect starts each through DVC.
        cluster: address of a Dask scheduler whose workers run them.

    Returns:
        0, or 1 where a paper could not be completed (each is named with its reason).
    """
    console = Console(highlight=False, soft_wrap=True)
    chosen = chosen_papers(root, papers)
    values = read_yaml(root / "params.yaml")
    checks.refuse_wrong_matrices(root, values, dag.papers(root))
    checks.refuse_unread_keys(root, values)
    checks.refuse_missing_makers(root, values)
    environment.fingerprint(root)
    heal(root, console.print)
    changed = changes(root)
    plan = planned(root, chosen, changed)
    checks.refuse_wrong_values(values, plan)
    _announce(root, plan, console)
    targets = [f"pipelines/{paper}/dvc.yaml" for paper in chosen]
    failures: list[dict[str, str]] = []
    code = 0
    if plan and (jobs > 1 or cluster):
        failures = _side_by_side(root, chosen, jobs, plan, cluster)
        code = 1 if failures else 0
        if not papers:
            code = _dvc(root, ["repro", "--single-item", "compare"], {})[0] or code
    elif plan or (not papers and "compare" in changed):
        with _helper(root) if plan else contextlib.nullcontext({}) as extra:
            words = ["repro", "--keep-going", *targets, *([] if papers else ["compare"])]
            code, failures = _dvc(root, words, extra)
    if plan:
        _track(root, console)
    _board(root, papers, console)
    if code:
        _explain(planned(root, chosen), failures, console)
    console.print(f"report: {(root / 'reports/index.html').relative_to(root)}")
    return 1 if code else 0


def measure_again(root: Path, papers: list[str]) -> int:
    """Run the bench stages again although nothing changed, then what depends on them."""
    chosen = [p for p in chosen_papers(root, papers) if "bench" in dag.pipeline(root, p)]
    targets = [f"pipelines/{paper}/dvc.yaml:bench" for paper in chosen]
    code, _ = _dvc(root, ["repro", "--force", "--single-item", *targets], {})
    return code or reproduce(root, papers)


def planned(
    root: Path, papers: list[str], changed: Mapping[str, Any] | None = None
) -> list[dag.Node]:
    """Stages that DVC will run: the changed ones and all that stand on them.

    Args:
        changed: as `changes` gives it, where the caller has it.
    """
    changed = changes(root) if changed is None else changed
    values = read_yaml(root / "params.yaml")
    stale: list[dag.Node] = []
    for node in wanted(root, papers, values):
        made = [out for earlier in stale for out in earlier.outs]
        if node.address in changed or any(overlap(d, m) for d in node.deps for m in made):
            stale.append(node)
    return stale


def changes(root: Path) -> dict[str, list[Any]]:
    """What `dvc status` says, by the stage's address.

    A DVC at work here, such as one whose caller was killed, is waited for.

    Raises:
        UserError: DVC cannot tell, such as where a dvc.yaml is wrong.
    """
    words = [sys.executable, "-m", "dvc", "status", "--json"]
    told = False
    while True:
        answer = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
        if not answer.returncode or not any(sign in answer.stderr for sign in BUSY):
            break
        if not told:
            print(f"{BUSY_TOLD}; waiting for it to end", file=sys.stderr)
        told = True
        time.sleep(BUSY_SECONDS)
    if answer.returncode:
        raise UserError(f"`dvc status` failed:\n{answer.stderr.strip()}")
    return dict(json.loads(answer.stdout))


def wanted(root: Path, papers: list[str], values: dict[str, Any]) -> list[dag.Node]:
    """All stages of `papers`, and of foundations those that they stand on; foundations first."""
    shared = [p for p in dag.papers(root) if p.startswith("foundations/")]
    order = [*shared, *(p for p in papers if p not in shared)]
    found: list[dag.Node] = []
    for node in reversed([n for paper in order for n in dag.nodes(root, paper, values)]):
        read = [dep for later in found for dep in later.deps]
        if node.paper in papers or any(overlap(d, out) for d in read for out in node.outs):
            found.append(node)
    return found[::-1]


def chosen_papers(root: Path, papers: list[str]) -> list[str]:
    """`papers`, or all of them when empty.

    Raises:
        UserError: there is no such paper.
    """
    there = dag.papers(root)
    for paper in papers:
        if paper not in there:
            raise UserError(f"unknown paper '{paper}'; allowed: {', '.join(there)}")
    return papers or there


def _announce(root: Path, plan: list[dag.Node], console: Console) -> None:
    if not plan:
        console.print("nothing has changed; nothing to run")
        return
    known = [r for r in (receipts.read(root, node) for node in plan) if r]
    seconds = sum(r["seconds"] for r in known)
    # Cache and working tree each hold a copy.
    need = 2 * sum(r.get("output_mb", 0.0) for r in known) / 1024 + SPARE_GB
    free = shutil.disk_usage(root).free / 2**30
    unknown = len(plan) - len(known)
    note = f" (and {unknown} that never ran here)" if unknown else ""
    per_paper: dict[str, list[str]] = {}
    for node in plan:
        per_paper.setdefault(node.paper, []).append(node.name)
    for paper, names in per_paper.items():
        console.print(f"[bold]{paper}[/]: {len(names)} stages: {', '.join(names)}")
    console.print(f"about {seconds / 60:.0f} min by earlier receipts{note}")
    console.print(f"disk: about {need:.1f} GB needed, {free:.1f} GB free")
    if need > free:
        raise UserError(
            f"about {need:.1f} GB are needed and {free:.1f} GB are free; make room "
            "(`make clean` says what may go), then run this again"
        )


def _side_by_side(
    root: Path, papers: list[str], jobs: int, plan: list[dag.Node], cluster: str | None
) -> list[dict[str, str]]:
    """Run the stages of `plan` by the flow `reproduce`, without a server of Prefect's."""
    _end_left_servers()
    os.environ[CALLER] = str(os.getpid())
    # What fails is told by `_explain`, not by Prefect's tracebacks.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # Its own server makes a database the first time, which takes 20 s, and more on a busy machine.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    if cluster:
        from stages.core.cluster.ready import ready

        ready(root, cluster)  # before Prefect starts, which would show a user's mistake as a fault
    flow = importlib.import_module("pipelines.flow")
    try:
        flow.reproduce(
            papers=papers,
            jobs=jobs,
            root=str(root),
            stages=[node.address for node in plan],
            cluster=cluster,
        )
    except flow.Incomplete as incomplete:
        found: list[dict[str, str]] = incomplete.failures
        return found
    return []


def _end_left_servers() -> None:
    """Prefect's temporary server outlives a caller that was killed by `kill -9`."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            env = process.environ()
            ours = CALLER in env and "PREFECT__SERVER_EPHEMERAL" in env
            if ours and not psutil.pid_exists(int(env[CALLER])):
                process.terminate()


def _helper(root: Path) -> contextlib.AbstractContextManager[dict[str, str]]:
    """The warm process that stages are forked from."""
    return warm.kept(root, read_yaml(root / "params.yaml")["common"])


def _dvc(
    root: Path, arguments: list[str], extra: Mapping[str, str]
) -> tuple[int, list[dict[str, str]]]:
    """Run DVC; give its exit code and the failures that stages reported."""
    with tempfile.TemporaryDirectory() as folder:
        book = Path(folder) / "failures.jsonl"
        code = child.run(
            [sys.executable, "-m", "dvc", *arguments],
            root,
            {**os.environ, **extra, "RETORT_FAILURES": str(book), "DVC_NO_ANALYTICS": "1"},
        )
        lines = book.read_text().splitlines() if book.is_file() else []
    return code, [json.loads(line) for line in lines]


def _track(root: Path, console: Console) -> None:
    from stages.core.tracking.track import track

    track(root, console)


def _board(root: Path, papers: list[str], console: Console) -> None:
    from stages.report.board import print_board

    path = root / "reports/claims.json"
    claims: list[dict[str, Any]] = json.loads(path.read_text())["claims"] if path.is_file() else []
    print_board(console, [c for c in claims if not papers or c["paper"] in papers])


def _explain(left: list[dag.Node], failures: list[dict[str, str]], console: Console) -> None:
    console.print("[bold red]not complete:[/]")
    for failure in failures:
        console.print(f"  [bold]{failure['paper']}[/] {failure['stage']}: {failure['message']}")
    if not failures:
        console.print(
            "  no stage said why: one was killed or has a fault; see above, and work/.logs"
        )
    for paper in dict.fromkeys(node.paper for node in left):
        names = [node.name for node in left if node.paper == paper]
        console.print(f"  [bold]{paper}[/]: still to run: {', '.join(names)}")
