"""Runs one stage: checks, run context, all-or-nothing output, receipt."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import resource
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from rich.console import Console
from rich.markup import escape

from stages.core import checks, child, dag, digests, environment, receipts, resume, warm
from stages.core.errors import UserError
from stages.core.files import listing, move_into_place, read_json, remove, write_json
from stages.core.intact import refuse_damaged
from stages.core.job import Inputs, Job
from stages.core.params import Common, build, read_yaml, tracked_keys
from stages.core.params import lookup as lookup_key
from stages.core.tracking import sender, spool


def find_root() -> Path:
    """The nearest folder at or above the current one that holds params.yaml and pipelines/.

    Raises:
        UserError: there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file() and (folder / "pipelines").is_dir():
            return folder
    raise UserError(f"no Retort project at or above {here.name}/: params.yaml is missing")


def load_stage(paper: str, stage: str) -> ModuleType:
    """Import the module that implements a stage.

    Raises:
        UserError: a package that it needs is not installed.
    """
    name = dag.REPORTED.get(stage) or f"pipelines.{paper.replace('/', '.')}.{stage}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in ("stages", "pipelines"):
            raise  # a slip in our own code
        raise UserError(
            f"{paper} {stage}: {error}; a package is missing: see README, 'Set-up in detail'"
        ) from error


def command(node: dag.Node) -> str:
    """The command that remakes a stage's output, as dvc.yaml has it."""
    words = ["python", "-m", "stages", node.stage, node.paper]
    words += ["--variant", node.variant] if node.variant else []
    words += ["--seeds", node.seeds] if node.seeds else []
    return shlex.join(words)


def run_stage(paper: str, stage: str, variant: str | None, seeds: str | None) -> None:
    """Run one stage; where `make repro` listens, tell it why a stage failed."""
    if (stop := os.environ.get(child.STOP)) and Path(stop).exists():
        raise KeyboardInterrupt
    try:
        if os.environ.get(child.TAKE_HOME):
            raise StageFailed("its result is not in the remote (yet)")
        _run_stage(find_root(), paper, stage, variant, seeds)
    except (UserError, StageFailed) as error:
        book = os.environ.get("RETORT_FAILURES")
        if book:
            with Path(book).open("a") as file:
                name = "@".join(p for p in (stage, variant) if p)
                # What the machine or the network lacks for a moment may be there at the next try.
                passing = isinstance(error.__cause__, ConnectionError | TimeoutError)
                line = {"paper": paper, "stage": name, "message": str(error), "passing": passing}
                file.write(json.dumps(line) + "\n")
        raise


def _run_stage(root: Path, paper: str, stage: str, variant: str | None, seeds: str | None) -> None:
    """Run one stage of one paper.

    Raises:
        UserError: parameters, names or inputs are wrong (nothing was written), or the stage
            itself found something that the user must mend.
    """
    started = time.monotonic()
    values = read_yaml(root / "params.yaml")
    node = dag.node(root, paper, stage, variant, seeds)
    checks.refuse_wrong_matrices(root, values, [paper])
    common = build(Common, values, "", "common")
    seed_list = dag.seed_range(seeds) if seeds else ()
    ranges = {n.seeds for n in dag.nodes(root, paper, values) if n.stage == stage and n.seeds}
    if seeds and seeds not in ranges:
        allowed = ", ".join(sorted(filter(None, ranges)))
        raise UserError(f"params.yaml: {paper} {stage} has no seeds '{seeds}'; allowed: {allowed}")
    environment.pin(common.threads)
    try:
        module = load_stage(paper, stage)
    except UserError:
        raise
    except Exception:
        with _logged(root, node):
            raise
    params = build(module.Params, values, dag.section(paper), stage, variant)
    for dep in node.deps:
        if not (root / dep).exists():
            raise UserError(f"missing input: {dep}; `dvc repro` makes it, `dvc pull` fetches it")
    with _logged(root, node):
        refuse_damaged(root, node, values)
    keys = tracked_keys(module.Params, dag.section(paper), stage, variant)
    source = {
        "code": digests.of_paths(root, node.code),
        "data": receipts.data(root, node),
        "params": digests.of_value({key: lookup_key(values, key) for key in keys}),
        "environment": digests.of_paths(root, [dag.ENVIRONMENT]),
    }
    identity = {"stage": stage, "paper": paper, "variant": variant, "seeds": seeds, **source}
    key = digests.of_value(identity)
    oid, dirty = receipts.commit(root)
    about = {
        **identity,
        "commit": oid,
        "dirty": dirty,
        "device": read_json(root / dag.DEVICE) if (root / dag.DEVICE).is_file() else {},
        "versions": environment.versions(),
        "profile": common.profile,
    }
    scratch = root / "work/.scratch" / paper / node.name
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with (
        _logged(root, node) as log,
        resume.held(root, node, key, lambda text: console.print(text)) as (folder, earlier),
    ):
        log.info("%s, key %s, %s", command(node), key, source)
        sweep(root, paper, values)
        remove(scratch)
        scratch.mkdir(parents=True)
        off = stage in dag.REPORTED or os.environ.get("RETORT_TRACKING") == "off"
        track = spool.NullTracker() if off else _tracker(root, node, key, about, values)
        if "torch" in sys.modules:
            environment.make_deterministic(common.threads)
            environment.keep_freed_memory()
        job = Job(root, node, seed_list, common.device, folder, log, track)
        ready = time.monotonic()
        try:
            # A bench has the machine to itself: nothing is sent while it measures.
            if stage == "bench":
                sender.quiesce(root)
            elif not off:
                sender.ensure_sender(root)
            module.run(params, Inputs(root, node), scratch, job)
        except BaseException as error:
            killed = isinstance(error, KeyboardInterrupt)
            track.close("KILLED" if killed else "FAILED", str(error))
            if isinstance(error, UserError):
                remove(scratch)
            raise
        finally:
            sender.resume(root)
        if stage in dag.REPORTED:
            target = root / "reports/papers"
            for entry in sorted(scratch.iterdir()):
                move_into_place(entry, target / entry.name)
            remove(scratch)
        else:
            write_json(scratch / "provenance.json", {"command": command(node), **identity})
            move_into_place(scratch, root / node.folder)
        usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        receipt = {
            **about,
            "key": key,
            "address": node.address,
            # A run that went on from a checkpoint took what led to it, too.
            "seconds": round(earlier + time.monotonic() - started, 2),
            "start_seconds": round(ready - started, 2),
            "output_mb": round(_size(root, node) / 2**20, 2),
            "cpu_seconds": round(
                earlier  # on one thread
                + sum(u.ru_utime + u.ru_stime for u in usage)
                + float(os.environ.get(warm.START, 0)),
                2,
            ),
            "peak_memory_mb": round(max(u.ru_maxrss for u in usage) / 1024, 1),
        }
        receipts.write(root, node, receipt)
        if stage in dag.REPORTED:
            refresh(root)
        else:
            track.results(root / node.folder)
            track.close("FINISHED")
            if not off and (notice := sender.away(root)):
                console.print(notice)
        if track.error:
            log.warning("not recorded in MLflow: %s", track.error)
            console.print(f"not recorded in MLflow ({track.error}); the results are whole")
        log.info("done in %.1f s", time.monotonic() - started)


def _size(root: Path, node: dag.Node) -> int:
    """Bytes of a stage's outputs."""
    outs = [root / out for out in node.outs]
    return sum(f.stat().st_size for o in outs for f in (listing(o) if o.is_dir() else [o]))


def refresh(root: Path) -> None:
    """Bring the board up to date from whatever papers have results."""
    from stages.report import compare

    compare.run(root)


def sweep(root: Path, paper: str, values: dict[str, Any]) -> None:
    """Delete output folders of variants and seed ranges that params.yaml no longer names."""
    known: dict[tuple[str, int], set[Path]] = {}
    for node in dag.nodes(root, paper, values):
        if axes := (node.variant is not None) + (node.seeds is not None):
            known.setdefault((node.stage, axes), set()).add(root / node.folder)
    for (stage, axes), folders in known.items():
        base = root / "work" / paper / stage
        for folder in sorted(base.glob("/".join("*" * axes))):
            # A dot: what a rename in progress has put aside.
            if folder not in folders and not folder.name.startswith("."):
                remove(folder)
        for folder in sorted(base.glob("*")) if axes > 1 else []:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where nothing is left in it


def _tracker(
    root: Path, node: dag.Node, key: str, about: dict[str, Any], values: dict[str, Any]
) -> Any:
    return spool.Tracker.open(
        root,
        key=key,
        paper=node.paper,
        stage=node.stage,
        variant=node.variant,
        seeds=node.seeds,
        params={name: lookup_key(values, name) for name in node.params},
        tags=receipts.tags(node, about),
        inputs=node.data,
    )


@contextlib.contextmanager
def _logged(root: Path, node: dag.Node) -> Iterator[logging.Logger]:
    """A log file of its own for the stage; its path is added to every error."""
    path = root / "work/.logs" / node.paper / f"{node.name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger("retort")
    handler = logging.FileHandler(path, mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    shown = path.relative_to(root)
    try:
        yield log
    except KeyboardInterrupt:
        log.warning("interrupted")
        raise
    except UserError as error:
        log.error("%s", error)
        raise UserError(f"{error}\n(log: {shown})") from None
    except Exception as error:
        log.error("%s", traceback.format_exc())
        raise StageFailed(f"{type(error).__name__}: {error}\n(traceback in {shown})") from error
    finally:
        log.removeHandler(handler)
        handler.close()


class StageFailed(Exception):
    """A stage broke down by a fault of its own; the log holds the traceback."""


def terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a stage as Ctrl-C does."""
    raise KeyboardInterrupt


def guarded(work: Any) -> int:
    """Run `work()`; print what goes wrong in one message and return the exit code."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    # A shell that starts a command in the background makes it ignore SIGINT: undo that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, terminate)
    try:
        return int(work() or 0)
    except UserError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}")
        return 2
    except StageFailed as error:
        console.print(f"[bold red]the stage failed:[/] {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues from the last checkpoint")
        return 130
