"""Tables of the pages: what a table is, the bench table, and any CSV file."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.report import numbers

ROWS_SHOWN = 60  # of a CSV table; the file itself is linked


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, a smaller second line, and the number in full for programs.

    `span` is the number of rows a row header stands for; 0: the one above stands for this row too.
    """

    text: str
    small: str = ""
    value: float | None = None
    numeric: bool = False
    span: int = 1


@dataclass(frozen=True)
class Table:
    """A table; the first `heads` cells of each row are its row headers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    heads: int = 1
    note: str = ""

    @property
    def numeric(self) -> frozenset[int]:
        """Columns that hold numbers."""
        return frozenset(i for row in self.rows for i, cell in enumerate(row) if cell.numeric)


def spanned(rows: list[list[Cell]], depth: int) -> list[list[Cell]]:
    """Let equal neighbours among the first `depth` row headers share one cell."""
    for column in reversed(range(depth)):
        start = 0
        for i in range(1, len(rows) + 1):
            here = [cell.text for cell in rows[start][: column + 1]]
            if i < len(rows) and [cell.text for cell in rows[i][: column + 1]] == here:
                rows[i][column] = replace(rows[i][column], span=0)
            else:
                rows[start][column] = replace(rows[start][column], span=i - start)
                start = i
    return rows


def natural(text: str) -> list[tuple[int, float, str]]:
    """Sort key that puts "ft=50" before "ft=200"."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts) if p or not i]


BENCH = {
    "backbone": "net",
    "runtime": "runtime",
    "weight_bits": "weight bits",
    "activation_bits": "activation bits",
    "shape": "input",
    "device": "device",
    "threads": "threads",
    "variant": "arm",
    "seed": "seed",
    "latency_ms": "latency, ms",
    "speed-up": "speed-up",
    "rtf": "real-time factor",
    "size_mb": "size, MB",
    "peak_memory_mb": "peak memory, MB",
    "macs": "MACs, M",
    "parameters": "parameters",
}
"""Columns of the bench table, where the rows have them."""
SLOWEST_RTF = 1e-3
"""Below it nobody waits for the signal, such as a weather forecast's: the column is left out."""


def bench(rows: Sequence[dict[str, Any]]) -> Table:
    """The bench table: a row per exported net, runtime and number of threads, slowest first.

    What is the same in all rows stands in the note. The second line under a latency is the spread.
    """
    full = [_bench_row(row) for row in rows]
    keys = [key for key in BENCH if any(key in row for row in full)]
    if max((row.get("rtf", 0.0) for row in full), default=0.0) < SLOWEST_RTF:
        keys = [key for key in keys if key != "rtf"]
    names = keys[: keys.index("latency_ms")]
    same = [k for k in names if k != "variant" and len({str(row.get(k)) for row in full}) == 1]
    shown = [key for key in keys if key not in same]
    heads = [key for key in names if key in shown]
    full.sort(
        key=lambda row: (
            [natural(str(row.get(k))) for k in heads if k not in ("variant", "seed")]
            + [[(0, -float(row["latency_ms"]), "")], natural(str(row["variant"]))]
        )
    )
    body = _aligned([[_plain(row.get(key)) for key in shown] for row in full])
    i, k = shown.index("latency_ms"), shown.index("speed-up")
    places = numbers.places_for(row["latency_ms"] for row in full)
    for cells, row in zip(body, full, strict=True):
        spread = (row.get("latency_low_ms"), row.get("latency_high_ms"))
        cells[i] = replace(cells[i], small=numbers.interval(*spread, places))
        if cells[k].numeric:
            cells[k] = replace(cells[k], text=f"×{cells[k].text}")
    note = "; ".join(f"{BENCH[k]} {_plain(full[0].get(k)).text}" for k in same)
    merged = spanned(body, heads.index("variant"))
    return Table("", [BENCH[key] for key in shown], merged, heads=len(heads), note=note)


def _bench_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of bench.json with its speed-up, and MACs in millions."""
    own, base, macs = row["latency_ms"], row["baseline_latency_ms"], row["macs"]
    return row | {
        "speed-up": base / own if own and base else None,
        "macs": macs / 1e6 if macs else None,
    }


def from_csv(path: Path) -> Table:
    """Show a CSV file; a long one is cut after `ROWS_SHOWN` rows."""
    with path.open(newline="", encoding="utf-8") as file:
        head, *body = list(csv.reader(file)) or [[]]
    cut = len(body) - ROWS_SHOWN
    rows = [[_plain(_parsed(text)) for text in row] for row in body[:ROWS_SHOWN]]
    note = f"{cut} more rows in the file" if cut > 0 else ""
    return Table("", head, _aligned(rows), heads=1, note=note)


def _parsed(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _plain(value: Any) -> Cell:
    if isinstance(value, list | tuple):
        return Cell(" × ".join(str(v) for v in value))
    if isinstance(value, int | float) and numbers.known(value):
        return Cell(numbers.number(value), "", value, numeric=True)
    return Cell(str(value or numbers.NONE))


def _aligned(rows: list[list[Cell]]) -> list[list[Cell]]:
    """Write the fractions of a column with the same number of decimals."""
    for i in range(len(rows[0]) if rows else 0):
        values = [row[i].value for row in rows if row[i].value is not None]
        if all(isinstance(value, int) for value in values):
            continue
        places = numbers.places_for([v for v in values if v is not None])
        for row in rows:
            if row[i].value is not None:
                row[i] = replace(row[i], text=numbers.number(row[i].value, places))
    return rows
