"""Rows of timed graphs: what stands beside what, and which bits are said to run."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.bench.integer.graphs import as_run, baseline, bench_rows, named, score_rows
from stages.core.results import read_scores, write_scores
from stages.report.page import _BENCH_KEYS
from stages.report.tables import bench
from tests.stages.bench.integer.samples import INTEGERS, timed

FULL = timed(8.0, 10.0, 9.0)
OWN = timed(4.0, 5.0, 3.0, **INTEGERS)
ELSEWHERE = timed(80.0, condition="tokens=128")


@pytest.mark.parametrize(
    ("bits", "expected"),
    [("W4A6", "W4A8"), ("W3A6-mix", "W3A8-mix"), ("W4A8", "W4A8"), ("W4A16", "W4A16")],
)
def test_bits_run_in_eight(bits: str, expected: str) -> None:
    assert as_run(bits) == expected


def test_variants_are_arms_and_other_kernels_of_them() -> None:
    assert [named("a", k) for k in ("exact", "tensor", "blocks")] == ["a", "a_tensor", "a_blocks"]


def test_each_stands_beside_full_precision_of_its_condition() -> None:
    among = [ELSEWHERE, FULL, OWN]
    assert baseline(OWN, among) is FULL and baseline(ELSEWHERE, among) is ELSEWHERE
    rows = bench_rows("p", among, "a machine")
    assert [row["baseline_latency_ms"] for row in rows] == [80.0, 9.0, 9.0]
    own = rows[2]
    assert (own["latency_ms"], own["latency_low_ms"], own["latency_high_ms"]) == (4.0, 3.5, 4.5)
    assert (own["size_mb"], own["baseline_size_mb"]) == (1.0, 8.0)
    assert (own["peak_memory_mb"], own["model_memory_mb"]) == (101.0, 30.0)
    assert own["runtime"] == "onnxruntime 0, int8"
    assert (own["weight_bits"], own["activation_bits"], own["activation_codes"]) == (4, 8, 6)
    assert (rows[1]["weight_bits"], rows[1]["activation_bits"]) == (32, 32)
    assert (own["bits"], rows[1]["bits"]) == ("W4A6", "")


def test_a_mix_is_not_called_by_its_lowest_width() -> None:
    mixed = timed(4.0, **{**INTEGERS, "weight_bits": 20 / 3, "activation_bits": 8.0})
    row = bench_rows("p", [FULL, mixed], "a machine")[1]
    assert (row["weight_bits"], row["activation_codes"]) == (6.6667, 8)
    assert isinstance(row["activation_codes"], int)


def test_the_page_takes_the_rows() -> None:
    rows = bench_rows("p", [FULL, OWN], "a machine")
    assert all(row.keys() >= _BENCH_KEYS for row in rows)
    table = bench(rows)
    place = list(table.columns).index("speed-up")
    assert {row[place].text for row in table.rows} == {"×1.00", "×2.25"}


def test_share_of_the_limit() -> None:
    assert OWN.of_limit == 50.0
    assert timed(4.0, least_ms=None).of_limit is None


def test_scores_pair_rounds(tmp_path: Path) -> None:
    write_scores(tmp_path / "s.parquet", score_rows("p", [FULL, OWN]))
    table = read_scores(tmp_path / "s.parquet")
    latency = table[table["metric"] == "latency_ms"].pivot(
        index="variant", columns="item", values="value"
    )
    assert latency.loc["full"].to_dict() == {"000": 8.0, "001": 10.0, "002": 9.0}
    assert latency.loc["arm"].to_dict() == {"000": 4.0, "001": 5.0, "002": 3.0}
    assert set(table["condition"]) == {"tokens=64"}
    sizes = table[table["metric"] == "size_mb"]
    assert dict(zip(sizes["variant"], sizes["value"], strict=True)) == {"full": 8.0, "arm": 1.0}
