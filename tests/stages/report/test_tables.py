"""Comparison tables: means and intervals as stages/core/stats.py gives them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core import stats
from stages.report import numbers, tables
from stages.report.comparison import RESAMPLES, comparisons


def frame(rows: list[dict[str, Any]]) -> Any:
    import pandas

    common = {
        **{"paper": "demo", "backbone": "net", "dataset": "seen", "condition": "", "seed": 0},
        **{"item": "", "metric": "m", "unit": "dB", "direction": "higher", "censored": False},
    }
    return pandas.DataFrame([common | row for row in rows])


def grid(variant: str, values: Any, **other: Any) -> list[dict[str, Any]]:
    return [
        {"variant": variant, "seed": s, "item": f"{i}", "value": float(v), **other}
        for s, row in enumerate(values)
        for i, v in enumerate(row)
    ]


def test_a_cell_is_the_mean_with_the_interval_of_stats() -> None:
    scores = np.random.default_rng(0).normal(5, 1, size=(3, 15))
    ((table,),) = (
        next(iter(group.families.values())) for group in comparisons(frame(grid("a", scores)))
    )
    cell = table.rows[0][2]
    assert cell.value == pytest.approx(scores.mean(), abs=1e-12)
    draws = stats.bootstrap(scores, None, "mean", "value", resamples=RESAMPLES)
    per_seed = stats.per_seed(scores, None, "mean", "value")
    found = stats.wider(per_seed, draws, float(scores.mean()), "value")
    assert cell.small == numbers.interval(found.low, found.high)


def test_arms_are_ranked_best_first_and_conditions_sorted() -> None:
    rows = []
    for variant, level in (("weak", 1), ("strong", 3), ("middle", 2)):
        for condition in ("total=150", "ft=200", "ft=50", "final", "before", "one_epoch"):
            rows += grid(variant, [[level]], condition=condition)
    rows += grid("dense", [[4]])
    (group,) = comparisons(frame(rows))
    plain, ft, total = (found[0] for found in group.families.values())
    assert plain.columns == ["net", "arm", "as it is", "before", "one_epoch", "final"]
    assert ft.columns[2:] == ["as it is", "ft=50", "ft=200"]
    assert total.columns[2:] == ["as it is", "total=150"]
    assert [row[1].text for row in ft.rows] == ["dense", "strong", "middle", "weak"]
    assert [row[0].span for row in ft.rows] == [4, 0, 0, 0]
    falling = [row | {"direction": "lower"} for row in rows]
    (group,) = comparisons(frame(falling))
    assert [row[1].text for row in group.families["ft"][0].rows] == [
        "dense",
        "weak",
        "middle",
        "strong",
    ]


def test_the_metric_with_most_scores_leads() -> None:
    rows = grid("a", [[1, 2]], metric="early") + grid("a", [[1, 2, 3]], metric="late")
    assert [g.title.split(" ")[0] for g in comparisons(frame(rows))] == ["late", "early"]


def test_censored_scores_are_a_bound() -> None:
    rows = grid("a", [[400], [600]])
    rows[1]["censored"] = True
    ((table,),) = (next(iter(group.families.values())) for group in comparisons(frame(rows)))
    assert table.rows[0][2].text == f"≥{numbers.THIN}500"
    assert table.rows[0][2].small == "1 of 2 beyond the cap"


def test_repeats_are_summed_up_by_their_median() -> None:
    ((table,),) = (
        next(iter(group.families.values()))
        for group in comparisons(frame(grid("a", [[1, 2, 90]])), repeats=True)
    )
    assert table.rows[0][2].value == 2


def test_a_missing_item_is_an_error() -> None:
    rows = grid("a", [[1, 2], [3, 4]])[:-1]
    with pytest.raises(ValueError, match="not every seed has every test item"):
        comparisons(frame(rows))


def test_csv_is_aligned_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    lines = [f"m{i},{1000 * i},{i / 8}" for i in range(tables.ROWS_SHOWN + 5)]
    path.write_text("\n".join(["module,macs,share", *lines]) + "\n")
    table = tables.from_csv(path)
    assert len(table.rows) == tables.ROWS_SHOWN and table.note == "5 more rows in the file"
    assert table.numeric == {1, 2}
    assert [cell.text for cell in table.rows[3]] == ["m3", "3000", "0.38"]


@pytest.mark.parametrize(("factor", "shown"), [(0.002, True), (2e-4, False)])
def test_a_real_time_factor_that_nobody_waits_for_is_left_out(factor: float, shown: bool) -> None:
    row = {
        **{"backbone": "net", "runtime": "x", "threads": 1, "variant": "a", "seed": 0, "macs": 1},
        **{"latency_ms": 2.0, "baseline_latency_ms": 4.0, "rtf": factor, "size_mb": 1.0},
    }
    table = tables.bench([row, row | {"variant": "b"}])
    assert ("real-time factor" in table.columns) is shown
