"""The caller's side: hands stages to Dask, and has its own DVC take the results home."""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import child, dag, receipts
from stages.core.attempt import Outcome, attempt
from stages.core.cluster import elsewhere
from stages.core.cluster.ready import CONNECT_SECONDS, nobody, ready
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.recorded import overlap
from stages.core.schedule import Lease
from stages.core.tracking.spool import key_of

if TYPE_CHECKING:
    from distributed import Client

Said = Callable[[str], object]
"""Is told each line that a stage prints."""

AGAIN_SECONDS = 5.0
"""Until a scheduler that was away for long is asked again."""
PASSED_ON = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""Variables that workers get: with a server that all reach, runs are recorded live."""
LOST = (
    "KilledWorker", "CancelledError", "FutureCancelledError", "CommClosedError",
    "ClosedClientError",
)  # fmt: skip
"""Names of Dask's errors that tell of workers, or of the scheduler, and not of the stage."""


class Here:
    """This machine: every stage through DVC in this clone."""

    def __init__(self, root: Path, env: Mapping[str, str]) -> None:
        self.root, self.env = root, env

    def others(self) -> int | None:
        """Slots of other machines: there are none."""
        return None

    def stage(
        self,
        node: dag.Node,
        lease: Lease,
        *,
        limit: float,
        cancel: threading.Event,
        said: Said,
    ) -> Outcome:
        """Run one stage; see `attempt`."""
        env = self.env
        if lease.gpu is not None:
            # Numbered as nvidia-smi does, which CUDA by itself does not.
            own = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(lease.gpu)}
            env = {**env, **own}
        return attempt(self.root, node.address, env, seconds=limit, cancel=cancel, said=said)


class Cluster:
    """A Dask cluster whose workers stand in clones of this project (`python -m stages join`).

    Used as a context; entered, it shares what is here and what workers will read.

    Args:
        address: of the scheduler, such as tcp://host:8786.
        here: the caller's own machine.
        every: the stages of the run, those that need not run too.
        planned: addresses of those that workers will run.

    Raises:
        UserError: `distributed` is not installed, nobody answers there, the tree differs from its
            commit, or DVC has no default remote.
    """

    def __init__(
        self, address: str, here: Here, every: Sequence[dag.Node], planned: set[str]
    ) -> None:
        self.address, self.here, self.root = address, here, here.root
        self.every, self.planned = {node.address: node for node in every}, planned
        self.run = uuid.uuid4().hex[:12]
        self.home = threading.Lock()
        """Held while this machine works itself, so that bench is not disturbed."""
        self._said: dict[str, Said] = {}
        self._unfit: dict[str, str] = {}
        """Dask's address of each worker that cannot run this project's stages -> why."""
        self._locks: dict[str, str] = {}
        self._not_taken: set[str] = set()
        """Addresses of stages whose results did not come home."""
        self._told_to_stop = threading.Event()
        self._connecting = threading.Lock()
        self._tried = 0.0
        self._client: Client | None = None
        self.commit = ready(self.root, address)
        self.client()

    def __enter__(self) -> Cluster:
        read = {a for p in self.planned for a in self.above(self.every[p])}
        self._share(read - self.planned)
        self._read_locks()
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def above(self, node: dag.Node) -> list[str]:
        """Addresses of the stages whose outputs one reads."""
        return [
            other.address
            for other in self.every.values()
            if other is not node and any(overlap(d, out) for d in node.deps for out in other.outs)
        ]

    def client(self) -> Client:
        """The connection; a new one where the scheduler was away for long.

        Raises:
            UserError: nobody answers.
        """
        from distributed import Client

        with self._connecting:
            if self._client is None or self._client.status == "closed":
                self._tried = time.monotonic()
                try:
                    self._client = Client(self.address, timeout=CONNECT_SECONDS)
                except (OSError, ValueError) as error:
                    raise UserError(nobody(self.address, error)) from None
            if self._client.status == "running":  # else it is on its way back by itself
                self._client.subscribe_topic(elsewhere.topic(self.run), self._hear)
            return self._client

    def _hear(self, event: tuple[float, Any]) -> None:
        address, line = event[1]
        self._said.get(address, lambda line: None)(line)

    def others(self) -> int:
        """How many stages the workers can take at once; none while the scheduler is away."""
        client = self._client
        if client is not None and client.status == "closed":
            if time.monotonic() < self._tried + AGAIN_SECONDS:
                return 0
            try:
                client = self.client()
            except UserError:
                return 0
        fit = self._fit(client) if client is not None else []
        return len(fit) or min(1, len(self._unfit))  # a stage that finds none fit says why

    def _fit(self, client: Client) -> list[str]:
        """Addresses of the workers that can run stages; each has one thread."""
        if client.status != "running":
            return []
        return [w for w in client.scheduler_info(n_workers=-1)["workers"] if w not in self._unfit]

    def stage(
        self, node: dag.Node, lease: Lease, *, limit: float, cancel: threading.Event, said: Said
    ) -> Outcome:
        """Run one stage where its lease says; a worker's result is taken home."""
        if not lease.here:
            return self._elsewhere(node, lease, limit, cancel, said)
        with self.home:
            done = self.here.stage(node, lease, limit=limit, cancel=cancel, said=said)
            self._read_locks()
        return done

    def _elsewhere(
        self, node: dag.Node, lease: Lease, limit: float, cancel: threading.Event, said: Said
    ) -> Outcome:
        begun = time.monotonic()
        self._said[node.address] = said
        passed = {k: v for k, v in self.here.env.items() if k in PASSED_ON}
        task = elsewhere.Task(
            run=self.run,
            address=node.address,
            commit=self.commit,
            environment=(self.root / dag.ENVIRONMENT).read_text(),
            locks=self._locks,
            above=tuple(self.above(node)),
            seconds=limit,
            env=passed or {"RETORT_TRACKING": "off"},
            recheck=node.address in self._not_taken,
        )
        try:
            answer = self._ask(task, cancel)
        except Exception as error:
            names = {type(e).__name__ for e in (error, error.__cause__) if e}
            lost = bool(names & {*LOST}) or isinstance(error, OSError | UserError)
            told = f"{type(error).__name__}: {error}"
            return Outcome("failed", time.monotonic() - begun, told, passing=lost)
        if answer.unread:
            self._share_anew(task.above)
        if answer.outcome.state == "failed":
            return answer.outcome
        said(f"made by {answer.host}")
        taken = self._take_home(node, limit, cancel, said)
        spent = time.monotonic() - begun
        if taken.state == "failed":
            self._not_taken.add(node.address)
            return Outcome("failed", spent, taken.message, passing=True)
        own = self.root / node.folder / "provenance.json"
        if answer.receipt and own.is_file() and answer.receipt["key"] == key_of(read_json(own)):
            receipts.write(self.root, node, answer.receipt)
        return Outcome(answer.outcome.state, spent)

    def _take_home(
        self, node: dag.Node, limit: float, cancel: threading.Event, said: Said
    ) -> Outcome:
        """Have DVC find the result in the remote's run cache; never run the stage here."""
        env = {**self.here.env, child.TAKE_HOME: "1"}
        for wait in (*elsewhere.WAITS, None):
            with self.home:
                done = attempt(
                    self.root, node.address, env,
                    seconds=limit, cancel=cancel, said=said, words=["--pull"],
                )  # fmt: skip
                self._read_locks()
            if done.state != "failed" or wait is None or cancel.wait(wait):
                break
        return done

    def _read_locks(self) -> None:
        """Keep what dvc.lock says; only while nothing here writes it."""
        files = sorted((self.root / "pipelines").rglob("dvc.lock"))
        self._locks = {f.relative_to(self.root).as_posix(): f.read_text() for f in files}

    def _share(self, addresses: Iterable[str]) -> None:
        """Push results that are here.

        Raises:
            UserError: the remote does not take them.
        """
        wanted = sorted(addresses)
        if wanted:
            done = subprocess.run(
                [sys.executable, "-m", "dvc", "push", "--quiet", "--run-cache", *wanted],
                cwd=self.root, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise UserError(f"`dvc push` failed:\n{done.stderr.strip()}")

    def _share_anew(self, addresses: Sequence[str]) -> None:
        """Replace damaged copies in the remote by what is here, where it is here."""
        with self.home, contextlib.suppress(elsewhere.Away, UserError, KeyError):
            for address in addresses:
                elsewhere.drop_damaged(self.root, self.every[address])
            self._share(addresses)

    def _ask(self, task: elsewhere.Task, cancel: threading.Event) -> elsewhere.Answer:
        """Have a worker that is fit run a task; raises what Dask raises."""
        # The scheduler unpickles what it hands on, and need not know this project.
        call = pickle.dumps(_Call(json.dumps(asdict(task))))
        while not cancel.is_set():
            client = self.client()
            fit = self._fit(client)
            if not fit and self._unfit:
                told = "; ".join(sorted({*self._unfit.values()}))
                return elsewhere.Answer(Outcome("failed", 0.0, told), "", "")
            # A key of its own for each try: what failed before is not answered from memory.
            name = f"{task.address}-{self.run}-{uuid.uuid4().hex[:8]}"
            # Named only where some are unfit: a worker that comes back has another address.
            only = fit if self._unfit else None
            future = client.submit(pickle.loads, call, key=name, pure=False, workers=only)
            while not future.done() and not cancel.wait(0.2):
                pass
            if future.done():
                answer = elsewhere.answer(future.result())
                if not answer.unfit:
                    return answer
                self._unfit[answer.worker] = answer.outcome.message
            else:
                self._stop(client)
                future.cancel()
        return elsewhere.Answer(Outcome("failed", 0.0, "stopped"), "", "")

    def _stop(self, client: Client) -> None:
        """Have workers end this run's stages, which leave checkpoints by themselves."""
        if not self._told_to_stop.is_set() and client.status == "running":
            self._told_to_stop.set()
            client.run(elsewhere.cancel, self.run, on_error="ignore")


class _Call:
    """What is `elsewhere.run(asked)` once it is unpickled."""

    def __init__(self, asked: str) -> None:
        self.asked = asked

    def __reduce__(self) -> tuple[Callable[[str], str], tuple[str]]:
        return elsewhere.run, (self.asked,)
