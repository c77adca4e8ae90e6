"""Whether two result files hold the same numbers within a tolerance.

For results of another instruction set or of other numeric packages, whose kernels sum in another
order: tables are compared number by number, text by text, and networks tensor by tensor; of other
files only the bytes can be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TOLERANCE = 0.01
"""Largest difference of two numbers, as a share of the largest magnitude among those of one kind:
a column (of scores: one metric), a tensor, or, in a JSON file, the two."""
PROVENANCE = "provenance.json"


def alike(one: Path, other: Path, name: str) -> bool | None:
    """Whether two files agree within `TOLERANCE`.

    Args:
        name: what both are called: a cache's files have other names.

    Returns:
        None for a kind of file that holds no numbers to compare.
    """
    suffix = Path(name).suffix
    if suffix == ".json":
        return _same_values(*(_read(path, name) for path in (one, other)))
    if suffix in (".csv", ".parquet"):
        return _same_tables(one, other, suffix)
    return _same_tensors(one, other) if suffix == ".safetensors" else None


def _read(path: Path, name: str) -> Any:
    """A JSON file; of a provenance without the environment, which is known to be another."""
    value = json.loads(path.read_text())
    if Path(name).name == PROVENANCE:
        return {key: own for key, own in value.items() if key != "environment"}
    return value


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
    # A table of scores has metrics of all sizes in one column.
    kinds = left["metric"] if "metric" in left else pd.Series(0, index=left.index)
    return all(_same_column(left[name], right[name], kinds) for name in left.columns)


def _same_column(left: Any, right: Any, kinds: Any) -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if not all(is_numeric_dtype(c) and not is_bool_dtype(c) for c in (left, right)):
        return bool(left.equals(right))
    largest = left.abs().where(left.abs() > right.abs(), right.abs())
    allowed = TOLERANCE * largest.groupby(kinds).transform("max")
    apart = (left - right).abs()
    return bool((left.isna() == right.isna()).all() and not (apart > allowed).any())


def _same_tensors(one: Path, other: Path) -> bool:
    import numpy as np
    from safetensors.numpy import load

    left, right = (load(path.read_bytes()) for path in (one, other))
    if left.keys() != right.keys():
        return False
    for name, a in left.items():
        b = right[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not np.issubdtype(a.dtype, np.floating):
            if not np.array_equal(a, b):
                return False
        elif a.size:
            allowed = TOLERANCE * max(float(np.abs(a).max()), float(np.abs(b).max()))
            if not float(np.abs(a - b).max()) <= allowed:
                return False
    return True
