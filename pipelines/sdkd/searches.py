"""What tune found, arm by arm, as one table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pipelines.sdkd.names import label, net
from pipelines.sdkd.summary import NONE
from stages.core.pictures import add_exhibit
from stages.prepare.tables import write_csv

TRIED = {"rate": "rate", "lambda": "λ", "alpha": "α"}
EACH = "valid_mse_seed"
Try = dict[str, str]


def show(out: Path, tune: Path) -> None:
    """Add the tries of all arms to a stage's exhibits, best first within each student and arm.

    The caption says where an arm's best try is at an end of its list, so that one beyond it might
    be better, and which rate the undistilled students found best.

    Args:
        tune: the output of the stage of that name.
    """
    found = []
    for path in sorted(tune.glob("*/search.csv")):
        with path.open(newline="") as file:
            ranked = sorted(
                csv.DictReader(file), key=lambda r: (r["student"], float(r["valid_mse"]))
            )
        for student, tries in groupby(ranked, key=lambda r: r["student"]):
            found.append((net(student), label(path.parent.name), path.parent.name, list(tries)))
    found.sort(key=lambda one: one[0])
    rows, ended, rates = [], [], []
    for student, arm, variant, tries in found:
        ends = at_an_end(tries)
        rows += _rows(student, arm, tries, "; ".join(ends))
        if ends:
            ended.append(f"{student}, {arm} ({'; '.join(ends)})")
        if variant == NONE:
            rates.append(f"{student} {tries[0]['rate']}")
    write_csv(out / "search.csv", rows)
    bounds = (
        f"At an end of its list is the best of: {'. '.join(ended)}."
        if ended
        else ("No best try is at an end of its list.")
    )
    add_exhibit(
        out,
        kind="table",
        name="search",
        file="search.csv",
        title="How strongly each arm distils",
        caption="Every arm had the same number of tries, from seeds that the study does not use; "
        "the lowest validation error against the truth, as the mean over these seeds, was taken "
        "(the first line of each arm). Rate is in units of the learning rate that all arms share; "
        "without distillation there is nothing else to try, and other rates than 1 are shown "
        f"only: the best rate without distillation is {', '.join(rates) or 'not known'}. {bounds} "
        "MSE in training variances.",
    )


def at_an_end(tries: Sequence[Try]) -> list[str]:
    """What of the first try is the least or the greatest of its list.

    Args:
        tries: of one student under one arm, best first.
    """
    ends = []
    for key, sign in TRIED.items():
        values = sorted({float(row[key]) for row in tries})
        best = float(tries[0][key])
        if len(values) > 1 and best in (values[0], values[-1]):
            side = "least" if best == values[0] else "greatest"
            ends.append(f"{sign} {best:g}, the {side}")
    return ends


def _rows(student: str, arm: str, tries: Sequence[Try], ends: str) -> list[dict[str, Any]]:
    return [
        {
            "student": student,
            "arm": arm,
            **{key: row[key] for key in TRIED},
            "validation MSE": f"{float(row['valid_mse']):.4f}",
            "of each seed": ", ".join(
                f"{float(value):.4f}" for key, value in row.items() if key.startswith(EACH)
            ),
            "at an end of its list": ends if place == 0 else "",
        }
        for place, row in enumerate(tries)
    ]
