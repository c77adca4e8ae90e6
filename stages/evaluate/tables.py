"""Building the long table of scores, and reading blocks of it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from stages.core.stats import Interval, interval

if TYPE_CHECKING:
    from pandas import DataFrame


def rows(
    values: Sequence[float] | NDArray[np.float64],
    items: Sequence[str],
    *,
    unit: str,
    direction: Literal["higher", "lower", "none"],
    censored: bool = False,
    **key: str | int,
) -> DataFrame:
    """One row of scores per test item.

    Args:
        values: one per item.
        items: names of the test items; `[""]` where the value belongs to the whole set.
        unit: of the values.
        direction: which way is better.
        censored: the values are only known to lie beyond what is written.
        key: paper, backbone, dataset, variant, condition, seed and metric.
    """
    from pandas import DataFrame

    table = DataFrame({"item": list(items), "value": np.asarray(values, dtype=np.float64)})
    return table.assign(**key, unit=unit, direction=direction, censored=censored)


def select(table: DataFrame, **where: Any) -> DataFrame:
    """The rows whose columns have these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def block(table: DataFrame, **where: Any) -> NDArray[np.float64]:
    """The scores of one arm as statistics wants them: (seeds, items), both sorted.

    Raises:
        ValueError: nothing is there, or a seed lacks an item that another has.
    """
    found = select(table, **where)
    scores = found.pivot(index="seed", columns="item", values="value").to_numpy(dtype=np.float64)
    if not scores.size or np.isnan(scores).any():
        raise ValueError(f"the scores for {where} are {'incomplete' if scores.size else 'missing'}")
    return scores


def mean(table: DataFrame, **where: Any) -> Interval:
    """The mean over seeds and items with its 95 % interval."""
    return interval(block(table, **where), None, "mean", "value")
