"""Result files: the long table of scores, the summary, the curves. Checked when written.

No result file holds a time stamp, a run id or a path, so the same inputs give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.files import replacing, write_json, write_text

if TYPE_CHECKING:
    import pandas

COLUMNS = {
    "paper": "string",
    "backbone": "string",
    "dataset": "string",
    "variant": "string",
    "condition": "string",
    "seed": "int64",
    "item": "string",
    "metric": "string",
    "value": "float64",
    "unit": "string",
    "direction": "string",
    "censored": "bool",
}
"""Columns of the table of scores: one row per variant × seed × test item × metric."""

DIRECTIONS = ("higher", "lower", "none")
KEY = ["paper", "backbone", "dataset", "variant", "condition", "seed", "item", "metric"]


class SchemaError(ValueError):
    """A stage tried to write a result file that breaks the schema."""


def write_scores(path: Path, rows: pandas.DataFrame | Iterable[Mapping[str, Any]]) -> None:
    """Write the long table of scores as parquet, sorted, with deterministic bytes.

    Raises:
        SchemaError: a column is missing or unknown, a value is not finite, a direction is
            unknown, or two rows have the same key.
    """
    import pandas
    import pyarrow
    import pyarrow.parquet

    table = rows if isinstance(rows, pandas.DataFrame) else pandas.DataFrame(list(rows))
    check_scores(table, path.name)
    table = table[list(COLUMNS)].astype(COLUMNS).sort_values(KEY, kind="stable")
    data = pyarrow.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(data, temporary, compression="zstd")


def read_scores(path: Path) -> pandas.DataFrame:
    """Read a table of scores and check it."""
    import pandas

    table = pandas.read_parquet(path)
    check_scores(table, path.name)
    return table


def check_scores(table: pandas.DataFrame, name: str) -> None:
    """Raise SchemaError where the table breaks the schema."""
    import numpy

    missing, unknown = set(COLUMNS) - set(table.columns), set(table.columns) - set(COLUMNS)
    if missing or unknown:
        raise SchemaError(f"{name}: missing columns {sorted(missing)}, unknown {sorted(unknown)}")
    if table.empty:
        raise SchemaError(f"{name}: the table is empty")
    empty = [c for c in COLUMNS if c != "value" and table[c].isna().any()]
    if empty:
        raise SchemaError(f"{name}: empty cells in {empty}")
    bad = ~numpy.isfinite(table["value"].to_numpy(dtype="float64"))
    if bad.any():
        first = table[bad].iloc[0][KEY].to_dict()
        raise SchemaError(f"{name}: {int(bad.sum())} values are not finite, the first at {first}")
    odd = set(table["direction"]) - set(DIRECTIONS)
    if odd:
        raise SchemaError(f"{name}: direction must be one of {DIRECTIONS}, not {sorted(odd)}")
    twice = table.duplicated(KEY)
    if twice.any():
        raise SchemaError(f"{name}: a row stands twice: {table[twice].iloc[0][KEY].to_dict()}")


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write a nested dict of numbers for `dvc metrics`.

    Raises:
        SchemaError: a leaf is not a finite number.
    """
    _check_numbers(metrics, path.name, [])
    write_json(path, metrics)


def _check_numbers(value: Any, name: str, where: list[str]) -> None:
    if isinstance(value, Mapping):
        for key, child in value.items():
            _check_numbers(child, name, [*where, str(key)])
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SchemaError(f"{name}: {'.'.join(where)} is {value!r}, not a finite number")


def write_curve(path: Path, table: pandas.DataFrame) -> None:
    """Write a curve as CSV for `dvc plots`; eight significant digits.

    Raises:
        SchemaError: the table is empty or holds numbers that are not finite.
    """
    import numpy

    if table.empty:
        raise SchemaError(f"{path.name}: the curve is empty")
    numbers = table.select_dtypes("number").to_numpy(dtype="float64")
    if not numpy.isfinite(numbers).all():
        raise SchemaError(f"{path.name}: some values are not finite")
    write_text(path, table.to_csv(index=False, float_format="%.8g", lineterminator="\n"))
