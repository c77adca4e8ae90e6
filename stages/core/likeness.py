"""Whether two result files hold the same numbers within a tolerance.

For results of another instruction set or of other numeric packages, whose kernels sum in another
order: tables are compared number by number, text by text; of other files only the bytes can be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TOLERANCE = 0.01
"""Largest difference of two numbers, as a share of the largest magnitude in their column (of a
JSON file: of the larger of the two)."""
TABLES = (".json", ".csv", ".parquet")


def alike(one: Path, other: Path, suffix: str) -> bool | None:
    """Whether two files agree within `TOLERANCE`.

    Args:
        suffix: what kind of file both are, such as ".csv": a cache's files have none.

    Returns:
        None for a kind of file that holds no table.
    """
    if suffix not in TABLES:
        return None
    if suffix == ".json":
        return _same_values(json.loads(one.read_text()), json.loads(other.read_text()))
    return _same_tables(one, other, suffix)


def _same_values(one: Any, other: Any) -> bool:
    left, right = dict(_leaves("", one)), dict(_leaves("", other))
    return left.keys() == right.keys() and all(_near(left[key], right[key]) for key in left)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        yield key, len(value)
        for name, below in items:
            yield from _leaves(f"{key}.{name}", below)
    else:
        yield key, value


def _near(one: Any, other: Any) -> bool:
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in (one, other)):
        return bool(one == other)
    if not (math.isfinite(one) and math.isfinite(other)):
        return repr(one) == repr(other)
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other))


def _same_tables(one: Path, other: Path, suffix: str) -> bool:
    import pandas as pd

    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    left, right = read(one), read(other)
    if list(left.columns) != list(right.columns) or len(left) != len(right):
        return False
    return all(_same_column(left[name], right[name]) for name in left.columns)


def _same_column(left: Any, right: Any) -> bool:
    import pandas as pd

    if not (pd.api.types.is_numeric_dtype(left) and pd.api.types.is_numeric_dtype(right)):
        return bool(left.equals(right))
    scale = max(left.abs().max(), right.abs().max())
    apart = (left - right).abs()
    return bool((left.isna() == right.isna()).all() and not (apart > TOLERANCE * scale).any())
