"""Prefect: the same DAGs, side by side.

`reproduce` reads the graph that DVC has, and has DVC run every stage by itself as soon as what it
stands on is there. What must run, what is cached, and every hash is DVC's word alone: whatever runs
a stage, the bytes are those of `dvc repro`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
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

from stages.core import dag, environment, receipts, warm
from stages.core.attempt import GRACE_SECONDS, Outcome
from stages.core.cluster.caller import Cluster, Here
from stages.core.heal import heal
from stages.core.live import Live, shown
from stages.core.machine import cores, gpus
from stages.core.params import read_yaml
from stages.core.schedule import WHOLE, Lease, Machine, Need, Schedule

TRIES = 3
"""Of a stage whose failure may pass."""
TABLE_SECONDS = 30.0
"""The table of stages in Prefect's page is written anew at most this often."""
PATIENT = 12 * 3600.0
"""Seconds that a scheduled retraining waits for another one in the same clone."""


class Passing(Exception):
    """A failure that may pass, so that Prefect tries again."""


class Failed(Exception):
    """A failure that stays."""


class Incomplete(Exception):
    """Some stages failed; its `failures` are paper, stage and message of each."""

    def __init__(self, failures: list[dict[str, str]]) -> None:
        told = "; ".join(f"{f['paper']} {f['stage']}: {f['message']}" for f in failures)
        super().__init__(told)
        self.failures = failures


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
) -> None:
    """Run what must run of `papers`, up to `jobs` stages at a time.

    Args:
        papers: all when empty.
        stages: addresses of the stages that must run, where the caller knows them.
        cluster: address of a Dask scheduler, whose workers then run all stages but bench and those
            of the report; as many at a time as there are workers, whatever `jobs` says.

    Raises:
        Incomplete: stages failed; all that do not stand on them have run.
    """
    from stages.core.repro import planned, wanted

    base = Path(root).resolve()
    values = read_yaml(base / "params.yaml")
    chosen = papers or dag.papers(base)
    every = wanted(base, chosen, values)
    if stages is None:
        environment.fingerprint(base)
        heal(base, print)
        stages = [node.address for node in planned(base, chosen)]
    nodes = [node for node in every if node.address in stages]
    known = {node.address: receipts.read(base, node) for node in nodes}
    seconds = {address: own["seconds"] for address, own in known.items() if own}
    threads = values["common"]["threads"]
    machine = Machine(max(cores(), threads), jobs, gpus(values["common"]["device"]))
    whole = min(machine.gpus.values(), default=0)  # of any one of them: a GPU has one stage
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
    _tell_board(base, chosen)
    if failures:
        raise Incomplete(failures)


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
    awaited: set[str] = set()

    def submit(address: str, lease: Lease) -> None:
        live.start(address)
        awaited.add(address)
        node = schedule.nodes[address]
        limit = schedule.limits[address]

        def work() -> Outcome:
            return run.stage(
                node, lease, limit=limit, cancel=cancel, said=lambda line: live.say(address, line)
            )

        future = run_stage.submit(address, work, cancel)
        future.add_done_callback(lambda done: ended.put((address, lease, done)))

    def settle(address: str, lease: Lease, future: Any) -> None:
        awaited.discard(address)
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

    with _told(schedule) as tell:
        try:
            while not schedule.over:
                machine.others = run.others()
                live.jobs = max(live.jobs, machine.others or 0)
                if machine.others == 0 and not awaited:
                    live.wait("workers: `python -m stages join` in a clone of its own")
                for address, lease in schedule.start(machine):
                    submit(address, lease)
                with contextlib.suppress(queue.Empty):
                    settle(*ended.get(timeout=0.5))
                    tell()
                live.tick()
        except BaseException:
            # Ctrl-C, SIGTERM, or Prefect's page: every stage leaves its checkpoint first. One that
            # was being heard of just then is not heard of again.
            cancel.set()
            until = time.monotonic() + 2 * GRACE_SECONDS
            while awaited and time.monotonic() < until:
                with contextlib.suppress(queue.Empty):
                    settle(*ended.get(timeout=0.5))
            raise
    return failures


@contextlib.contextmanager
def _told(schedule: Schedule) -> Iterator[Callable[[], None]]:
    """A bar and a table in Prefect's page; gives what brings them up to date."""
    bar: Any = create_progress_artifact(0.0, key="progress", description="stages that have ended")
    last = time.monotonic()

    def table() -> None:
        rows = [
            {"stage": f"{schedule.nodes[a].paper} {schedule.nodes[a].name}", "state": state}
            for a, state in schedule.states.items()
        ]
        create_table_artifact(rows, key="stages", description="how far each stage is")

    def tell() -> None:
        nonlocal last
        open_ones = schedule.count("waiting") + schedule.count("running")
        share = 1 - open_ones / max(len(schedule.nodes), 1)
        update_progress_artifact(bar, round(100 * share, 1))
        if time.monotonic() > last + TABLE_SECONDS:
            last = time.monotonic()
            table()

    try:
        yield tell
    except KeyboardInterrupt:  # Ctrl-C, which has ended Prefect's temporary server too
        raise
    except BaseException:
        table()
        raise
    table()


def _tell_board(root: Path, papers: list[str]) -> None:
    from stages.report.board import markdown
    from stages.report.index import read_papers

    own = [paper for paper in read_papers(root) if paper["name"] in papers]
    create_markdown_artifact(markdown(own), key="claims", description="the claims board")
