"""What tune found, arm by arm, as one table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from pipelines.sdkd.names import label, net
from stages.core.pictures import add_exhibit
from stages.prepare.tables import write_csv


def show(out: Path, tune: Path) -> None:
    """Add the tries of all arms to a stage's exhibits, best first within each student and arm.

    Args:
        tune: the output of the stage of that name.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(tune.glob("*/search.csv")):
        with path.open(newline="") as file:
            found = sorted(
                csv.DictReader(file), key=lambda r: (r["student"], float(r["valid_mse"]))
            )
        rows += [
            {
                "student": net(row["student"]),
                "arm": label(path.parent.name),
                "rate": row["rate"],
                "lambda": row["lambda"],
                "alpha": row["alpha"],
                "validation MSE": f"{float(row['valid_mse']):.4f}",
            }
            for row in found
        ]
    write_csv(out / "search.csv", sorted(rows, key=lambda row: row["student"]))
    add_exhibit(
        out,
        kind="table",
        name="search",
        file="search.csv",
        title="How strongly each arm distils",
        caption="Every arm had the same number of tries, from a seed that the study does not use; "
        "the lowest validation error against the truth was taken (the first line of each arm). "
        "Rate is in units of the learning rate that all arms share; without distillation there is "
        "nothing else to try, and its first line says whether that rate is its best. MSE in "
        "training variances.",
    )
