"""CSV as the stages write and read it: one form, so that equal tables have equal bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.core.files import write_text


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys; the first row's order is that of the columns.

    Raises:
        ValueError: there is no row, or one has other keys.
    """
    if not rows:
        raise ValueError(f"{path.name}: a table needs a row")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if row.keys() != rows[0].keys():
            raise ValueError(f"{path.name}: rows differ in their columns")
        writer.writerow(row)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
