"""Claims and scores made up for the tests of the stage `claims`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas

from stages.claims.model import Sheet
from stages.claims.verdict import verdicts
from stages.core.results import check_scores

COLUMNS = {
    "paper": "demo", "backbone": "net", "dataset": "seen", "variant": "ours", "condition": "final",
    "metric": "score", "unit": "dB", "direction": "higher", "censored": False,
}  # fmt: skip
LAB = {"profile": "lab", "reason": "the third net is trained there"}


def rows(values: Any, **key: Any) -> pandas.DataFrame:
    """Rows of scores from an array (seeds, items); `censored` may be an array of that shape."""
    values = np.atleast_2d(np.asarray(values, dtype=float))
    key = COLUMNS | key
    cut = np.broadcast_to(key.pop("censored"), values.shape)
    whole = values.shape[1] == 1
    return pandas.DataFrame(
        [
            {**key, "seed": s, "item": "" if whole else f"{i:03}", "value": values[s, i],
             "censored": bool(cut[s, i])}
            for s in range(values.shape[0])
            for i in range(values.shape[1])
        ]
    )  # fmt: skip


def table(*parts: pandas.DataFrame) -> pandas.DataFrame:
    """One valid table of scores."""
    made = pandas.concat(parts, ignore_index=True)
    check_scores(made, "made up")
    return made


def spread(mean: float, sd: float = 0.3, seeds: int = 3, items: int = 40, seed: int = 0) -> Any:
    """Scores around a mean; the items are as hard for every arm with the same `seed`."""
    hard = np.random.default_rng(99).normal(0, 3, (1, items))
    own = np.random.default_rng(seed + 1).normal(0, sd, (seeds, items))
    return mean + hard - hard.mean() + own - own.mean()


def claim(**changes: Any) -> dict[str, Any]:
    """A claim as claims.yaml has it: 'ours' beats 'base' by 1 dB. `measure` is merged."""
    measure = {
        "table": "evaluate", "metric": "score", "variant": "ours", "baseline": "base",
        "dataset": "seen", "condition": "final", "aggregate": "mean", "compare": "difference",
        "items": "shared",
    } | changes.pop("measure", {})  # fmt: skip
    made = {
        "id": "better",
        "claim": "Ours is better.",
        "where": "Table 1",
        "published": {"value": 1.0, "unit": "dB"},
        "measure": {key: value for key, value in measure.items() if value is not None},
        "rule": {"kind": "better_than"},
        "tolerance": {"relative": 0.5, "reason": "made up"},
        "differs": "Everything.",
        "given_one_teacher": True,
    } | changes
    return {key: value for key, value in made.items() if value is not None}


def sheet(*claims: dict[str, Any]) -> Sheet:
    return Sheet.model_validate({"paper": "demo", "claims": list(claims)})


def against(ours: Any, base: Any, **key: Any) -> pandas.DataFrame:
    """Scores of two arms."""
    return table(rows(ours, **key), rows(base, variant="base", **key))


def one(
    entry: dict[str, Any], scores: pandas.DataFrame, profile: str = "desk", **tables: Any
) -> dict[str, Any]:
    """The verdict on one claim."""
    return verdicts(sheet(entry), {"evaluate": scores, **tables}, profile)[0]
