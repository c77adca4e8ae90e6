"""A worker's side: one stage in the worker's own clone, from the remote and back to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.core import dag, receipts, recorded
from stages.core.attempt import Outcome, attempt
from stages.core.files import write_text
from stages.core.params import read_yaml

WAITS = (2.0, 5.0, 10.0, 20.0, 40.0)
"""Seconds between tries while the remote is away."""

_cancelled: dict[str, threading.Event] = {}


@dataclass(frozen=True)
class Task:
    """What a worker is asked to run.

    Attributes:
        run: id of the caller's run, by which it is cancelled.
        commit: that the caller has checked out.
        environment: the caller's work/environment.json.
        locks: the caller's dvc.lock files, path -> text.
        above: addresses of the stages whose outputs this one reads.
        seconds: after which it is ended.
        env: variables to be set beside the worker's own.
        recheck: whether the remote's copies of the result are to be looked at: the caller could
            not take them home.
    """

    run: str
    address: str
    commit: str
    environment: str
    locks: Mapping[str, str]
    above: Sequence[str]
    seconds: float
    env: Mapping[str, str]
    recheck: bool = False


@dataclass(frozen=True)
class Answer:
    """How it ended.

    Attributes:
        host: where, for people.
        worker: where, as Dask knows it.
        receipt: the newest that the worker has of this stage.
        unfit: whether no stage can run there.
        unread: whether what the stage reads could not be pulled.
    """

    outcome: Outcome
    host: str
    worker: str
    receipt: dict[str, Any] | None = None
    unfit: bool = False
    unread: bool = False


class Unfit(Exception):
    """This worker cannot run the stage; the message says why and how to mend it."""


class Away(Exception):
    """The remote does not answer."""


class Unread(Away):
    """The remote does not give what the stage reads."""


def cancel(run: str) -> None:
    """End what this worker does for a run; it leaves its checkpoint."""
    _cancelled.setdefault(run, threading.Event()).set()


def run(asked: str) -> str:
    """Run a stage; called by Dask, in the worker's clone.

    Nothing is raised for a stage that fails: the outcome says so, and whether another try may help.

    Args:
        asked: a `Task`, as JSON.

    Returns:
        An `Answer`, as JSON.
    """
    from distributed import get_worker

    task = Task(**json.loads(asked))
    worker, stop = get_worker(), _cancelled.setdefault(task.run, threading.Event())
    host, begun = f"{socket.gethostname()}:{Path.cwd().name}", time.monotonic()

    def said(line: str) -> None:
        worker.log_event(topic(task.run), (task.address, line))

    try:
        outcome, receipt = _run(Path.cwd(), task, stop, said)
        answer = Answer(outcome, host, worker.address, receipt)
    except (Unfit, Away) as error:
        spent, unfit = time.monotonic() - begun, isinstance(error, Unfit)
        outcome = Outcome("failed", spent, f"{host}: {error}", passing=not unfit)
        unread = isinstance(error, Unread)
        answer = Answer(outcome, host, worker.address, unfit=unfit, unread=unread)
    return json.dumps(asdict(answer))


def answer(said: str) -> Answer:
    """What `run` gave."""
    values = json.loads(said)
    return Answer(**{**values, "outcome": Outcome(**values["outcome"])})


def topic(run: str) -> str:
    """Where the lines that a run's stages print are heard."""
    return f"retort-{run}"


def _run(
    root: Path, task: Task, stop: threading.Event, said: Callable[[str], object]
) -> tuple[Outcome, dict[str, Any] | None]:
    _follow(root, task)
    for name, text in task.locks.items():
        if not (root / name).is_file() or (root / name).read_text() != text:
            write_text(root / name, text)
    node = _node(root, task.address)
    if task.above:
        try:
            _patiently(root, ["pull", "--quiet", "--force", *task.above], stop)
        except Away as error:
            raise Unread(str(error)) from error
    outcome = attempt(
        root, task.address, {**os.environ, **task.env},
        seconds=task.seconds, cancel=stop, said=said, words=["--pull"],
    )  # fmt: skip
    if outcome.state == "failed":
        return outcome, None
    if outcome.state == "ran" or task.recheck:
        _insist(lambda: drop_damaged(root, node), stop)
    _patiently(root, ["push", "--quiet", "--run-cache", task.address], stop)
    return outcome, receipts.read(root, node)


def _node(root: Path, address: str) -> dag.Node:
    values = read_yaml(root / "params.yaml")
    paper = address.removeprefix("pipelines/").partition("/dvc.yaml:")[0]
    return next(n for n in dag.nodes(root, paper, values) if n.address == address)


def drop_damaged(root: Path, node: dag.Node) -> None:
    """Delete damaged copies of a stage's files from the remote, so that a push brings whole ones.

    DVC pushes nothing that the remote has by name. Few files are there before they are pushed: a
    stage runs where its result was not to be had, or not whole.

    Raises:
        Away: the remote does not answer.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB, get_index
    from dvc_objects.errors import ObjectFormatError

    cache = recorded.cache_folder(root)
    outs = {out["md5"] for out in recorded.entries(root, node.paper)[node.name]["outs"]}
    hashes = {md5 for out in outs for md5 in (recorded.files(cache, out) or {}).values()} | outs
    try:
        with Repo(str(root)) as repo:
            store, damaged = repo.cloud.get_remote_odb(), 0
            for md5 in store.oids_exist(sorted(hashes)):
                try:
                    # The general one, which deletes what is damaged; that of a folder on this
                    # machine trusts whatever is read-only.
                    HashFileDB.check(store, md5)
                except ObjectFormatError:
                    damaged += 1
            # Where the remote has a folder's list, DVC takes its files to be there too.
            for md5 in store.oids_exist(sorted(outs)) if damaged else []:
                store.delete(md5)
            if damaged:
                get_index(store).clear()
    except Exception as error:  # each protocol's library has its own
        raise Away(f"{type(error).__name__}: {error}") from error


def _follow(root: Path, task: Task) -> None:
    """Check the caller's commit out, and see that this machine is one that gives the same bytes.

    Raises:
        Unfit: the commit is not to be had, the clone has changes of its own, or the environment is
            another one.
    """
    here, dirty = receipts.commit(root)
    if dirty:
        raise Unfit("this clone has changes of its own; it must be as the caller's commit is")
    if here != task.commit:
        if _git(root, "cat-file", "-e", f"{task.commit}^{{commit}}"):
            _git(root, "fetch", "--quiet", "origin")
        why = _git(root, "checkout", "--quiet", "--force", "--detach", task.commit)
        if why:
            raise Unfit(f"the caller's commit is not to be had (is it pushed?): {why}")
    subprocess.run([sys.executable, "-m", "stages", "fingerprint"], cwd=root, check=True)
    if (root / dag.ENVIRONMENT).read_text() != task.environment:
        raise Unfit(
            "instruction set or numeric packages differ from the caller's, so that bytes would: "
            f"compare {dag.ENVIRONMENT} of both; `make setup` brings the packages up to date"
        )


def _git(root: Path, *words: str) -> str:
    """Run git; what it complains of, or nothing."""
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"git {words[0]} failed" if done.returncode else ""


def _patiently(root: Path, words: Sequence[str], stop: threading.Event) -> None:
    """Run a command of DVC's that needs the remote, again and again while it is away.

    Raises:
        Away: it did not come back.
    """
    _insist(lambda: _dvc(root, words), stop)


def _insist(work: Callable[[], None], stop: threading.Event) -> None:
    for wait in WAITS:
        try:
            return work()
        except Away:
            if stop.wait(wait):
                raise
    return work()


def _dvc(root: Path, words: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise Away(f"`dvc {words[0]}` failed: {' '.join(told[-3:])}")
