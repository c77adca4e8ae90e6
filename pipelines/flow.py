"""Prefect: the same DAGs, side by side.

`reproduce` reads the graph that DVC has, and has DVC run every stage by itself as soon as what it
stands on is there. What must run, what is cached, and every hash is DVC's word alone: whatever runs
a stage, the bytes are those of `dvc repro`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.tasks import exponential_backoff
from rich.console import Console

from stages.core import dag, receipts, warm
from stages.core.attempt import Outcome
from stages.core.cluster.caller import Cluster, Here
from stages.core.live import Live, shown
from stages.core.params import read_yaml
from stages.core.schedule import WHOLE, Lease, Machine, Need, Schedule

TRIES = 3
"""Of a stage whose failure may pass."""
LEAST_SECONDS = 600.0
"""A stage is ended when it takes longer than this and `PATIENCE` times its last run."""
PATIENCE = 10.0
PATIENT = 12 * 3600.0
"""Seconds that a scheduled retraining waits for another one in the same clone."""


class Passing(Exception):
    """A failure that may pass, so that Prefect tries again."""


class Failed(Exception):
    """A failure that stays."""


def _may_pass(_: object, run: object, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), Passing)


@task(
    name="stage",
    task_run_name="{address}",
    retries=TRIES - 1,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=0.5,
    retry_condition_fn=_may_pass,
    persist_result=False,
)
def run_stage(address: str, run: Callable[[], Outcome], cancel: Any) -> Outcome:
    """One stage through DVC, here or elsewhere; Prefect has it as a task of its own.

    Raises:
        Passing, Failed: with the outcome as its argument.
    """
    done = run()
    if done.state == "failed":
        raise (Passing if done.passing and not cancel.is_set() else Failed)(done)
    return done


@flow(name="reproduce", persist_result=False, validate_parameters=False)
def reproduce(
    papers: list[str] | None = None,
    jobs: int = 2,
    root: str = ".",
    stages: list[str] | None = None,
    cluster: str | None = None,
) -> list[dict[str, str]]:
    """Run what must run of `papers`, up to `jobs` stages at a time.

    Args:
        papers: all when empty.
        stages: addresses of the stages that must run, where the caller knows them.
        cluster: address of a Dask scheduler, whose workers then run all stages but bench and those
            of the report; as many at a time as there are workers, whatever `jobs` says.

    Returns:
        The failures: paper, stage and message of each.
    """
    from stages.core.repro import planned, wanted

    base = Path(root).resolve()
    values = read_yaml(base / "params.yaml")
    chosen = papers or dag.papers(base)
    every = wanted(base, chosen, values)
    if stages is None:
        stages = [node.address for node in planned(base, chosen)]
    nodes = [node for node in every if node.address in stages]
    known = {node.address: receipts.read(base, node) for node in nodes}
    seconds = {address: own["seconds"] for address, own in known.items() if own}
    threads = values["common"]["threads"]
    machine = Machine(max(os.cpu_count() or 1, threads), jobs, gpus(values["common"]["device"]))
    whole = max(machine.gpus.values(), default=0)
    stay = {n.address for n in nodes if n.stage in (*WHOLE, *dag.REPORTED)}
    needs = {n.address: Need(threads, n.stage in WHOLE, whole, n.address in stay) for n in nodes}
    schedule = Schedule(nodes, seconds, needs)
    live = Live(schedule, jobs, Console(highlight=False, soft_wrap=True))
    with warm.kept(base, values["common"]) as extra, contextlib.ExitStack() as stack:
        run: Here | Cluster = Here(base, {**os.environ, **extra})
        if cluster:
            run = stack.enter_context(Cluster(cluster, run, every, {*stages} - stay))
        stack.enter_context(shown(live))
        failures = _drive(schedule, machine, live, run)
    own = {node.address: receipts.read(base, node) for node in nodes}
    live.overhead({a: r["seconds"] - r["start_seconds"] for a, r in own.items() if r})
    _tell(schedule, base, chosen)
    return failures


@task(name="decide", task_run_name="{paper}", persist_result=False)
def decide(paper: str, root: str, profile: str, jobs: int, day: date | None) -> dict[str, Any]:
    """Make the challenger, judge the champion beside it, decide, and write the decision down."""
    from stages.promote import retrain as promote

    own: dict[str, Any] = {"profile": profile, "jobs": jobs, "day": day, "patience": PATIENT}
    return promote.retrain(Path(root).resolve(), paper, **own)


@flow(name="retrain", flow_run_name="retrain {paper}", persist_result=False)
def retrain(
    paper: str, root: str = ".", profile: str = "desk", jobs: int = 1, day: date | None = None
) -> dict[str, Any]:
    """Retrain a paper's network from the data of today; it is used from now on if it is no worse.

    Args:
        paper: one with a `retrain.yaml`.
        root: the project's root.
        jobs: stages at a time.
        day: whose data are asked for; today by default.

    Returns:
        The record of the decision.
    """
    from stages.promote.retrain import told

    made = decide(paper, root, profile, jobs, day)
    text = "\n".join(f"- {line.strip()}" for line in told(made))
    create_markdown_artifact(text, key="decision", description=f"{paper}: {made['outcome']}")
    _tell_board(Path(root).resolve(), [paper])
    return made


def _drive(
    schedule: Schedule, machine: Machine, live: Live, run: Here | Cluster
) -> list[dict[str, str]]:
    """Start stages as they become ready, until nothing is left; end all when interrupted."""
    cancel = threading.Event()
    ended: queue.SimpleQueue[tuple[str, Lease, Any]] = queue.SimpleQueue()
    failures: list[dict[str, str]] = []
    running = 0

    def submit(address: str, lease: Lease) -> None:
        limit = max(LEAST_SECONDS, PATIENCE * schedule.seconds[address])
        live.start(address)
        node = schedule.nodes[address]
        future = run_stage.submit(
            address,
            lambda: run.stage(
                node, lease, limit=limit, cancel=cancel, said=lambda line: live.say(address, line)
            ),
            cancel,
        )
        future.add_done_callback(lambda done: ended.put((address, lease, done)))

    def settle(address: str, lease: Lease, future: Any) -> None:
        machine.give_back(lease)
        done = future.result(raise_on_failure=False)
        outcome = done.args[0] if isinstance(done, Passing | Failed) else done
        if not isinstance(outcome, Outcome):  # a fault of ours or of Prefect's
            outcome = Outcome("failed", 0.0, f"{type(done).__name__}: {done}")
        live.end(address, outcome, schedule.end(address, outcome.state))
        if outcome.state == "failed":
            node = schedule.nodes[address]
            line = {"paper": node.paper, "stage": node.name, "message": outcome.message}
            failures.append(line)

    with _progress(schedule) as tell:
        try:
            while not schedule.over:
                machine.others = run.others()
                if machine.others == 0 and not running:
                    live.wait("workers: `python -m stages join` in a clone of its own")
                for address, lease in schedule.start(machine):
                    submit(address, lease)
                    running += 1
                with contextlib.suppress(queue.Empty):
                    settle(*ended.get(timeout=0.5))
                    running -= 1
                    tell()
                live.tick()
        except BaseException:
            # Ctrl-C, SIGTERM, or Prefect's page: every stage leaves its checkpoint first.
            cancel.set()
            while running:
                settle(*ended.get())
                running -= 1
            raise
    return failures


@contextlib.contextmanager
def _progress(schedule: Schedule) -> Iterator[Any]:
    """A bar in Prefect's page; gives what brings it up to date."""
    bar: Any = create_progress_artifact(0.0, key="progress", description="stages that have ended")

    def tell() -> None:
        open_ones = schedule.count("waiting") + schedule.count("running")
        share = 1 - open_ones / max(len(schedule.nodes), 1)
        update_progress_artifact(bar, round(100 * share, 1))

    yield tell


def _tell(schedule: Schedule, root: Path, papers: list[str]) -> None:
    """The table of stages and the claims board, for Prefect's page."""
    rows = [
        {"stage": f"{schedule.nodes[a].paper} {schedule.nodes[a].name}", "ended": state}
        for a, state in schedule.states.items()
    ]
    create_table_artifact(rows, key="stages", description="how each stage ended")
    _tell_board(root, papers)


def _tell_board(root: Path, papers: list[str]) -> None:
    from stages.report.board import markdown
    from stages.report.index import read_papers

    own = [paper for paper in read_papers(root) if paper["name"] in papers]
    create_markdown_artifact(markdown(own), key="claims", description="the claims board")


def gpus(device: str) -> dict[int, int]:
    """Id -> free bytes of the GPUs that stages may lease; none where they run on the CPU."""
    if device == "cpu":
        return {}
    query = ["nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    rows = (line.split(",") for line in told.splitlines())
    return {int(index): int(free) * 2**20 for index, free in rows}
