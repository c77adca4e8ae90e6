"""Tables and the picture of made-up measurements."""

from __future__ import annotations

from pathlib import Path

from stages.bench.integer import exhibits
from stages.bench.integer.cases import BY_NAME, CLIP, Case
from stages.bench.integer.once import Cost
from stages.bench.integer.tables import Bits, Quality
from stages.core.pictures import LIGHT, read_exhibits, render
from stages.quantize.bits import Ledger, Stored
from tests.stages.bench.integer.samples import INTEGERS, timed

BLOCKS = [
    timed(9.0),
    timed(3.0, **INTEGERS),
    timed(40.0, condition=CLIP, shape=(1, 128, 1920)),
    timed(20.0, condition=CLIP, shape=(1, 128, 1920), **INTEGERS),
]


def test_blocks_and_those_left_out() -> None:
    left = Case(BY_NAME["cogvideox-5b"], 1, 17_776, 17_776, clip=False)
    rows = exhibits.block_rows(BLOCKS, [left])
    assert [(r["tokens"], r["of them run"], r["arm"], r["speed-up"]) for r in rows[:4]] == [
        ("64", 64, "full", "1"),
        ("64", 64, "arm", "3"),
        ("clip", 128, "full", "1"),
        ("clip", 128, "arm", "2"),
    ]
    assert [r["of limit, %"] for r in rows[:4]] == ["22", "67", "5", "10"]
    assert rows[4]["arm"] == "not measured: attention takes 60.7 GB" and rows[4]["ms"] == ""
    assert all(row.keys() == rows[0].keys() for row in rows)


def test_a_clip_takes_its_steps() -> None:
    (row,) = exhibits.model_rows([timed(2.0, 4.0, 6.0)], 20)
    assert (row["ms a step"], row["s a clip"]) == ("4", "0.08")


def test_qualities_are_means() -> None:
    quality = Quality("n", "arm", "W4A6", 0, ["a", "b"], [20.0, 22.0], [19.0, 20.0], [40.0, 50.0],
                      [90.0, 100.0])  # fmt: skip
    (row,) = exhibits.quality_rows([quality])
    assert list(row.values()) == ["n", "arm", "W4A6", "21.00", "19.50", "45.0", "95.0"]


def test_sizes_add_up() -> None:
    ledger = Ledger(
        codes=400, scales=100, zeros=50, inputs=50, transforms=200, beside=100, full=100
    )
    stored = Stored(ledger, weights=100, values=125)
    (row,) = exhibits.size_rows([Bits("latte", "arm", "W4A6", 0, stored, 0.5)])
    assert (row["bits a weight"], row["bits a number"]) == ("9.0000", "8.0000")
    assert row["times smaller than 16 bits"] == "2.000"
    shares = [
        row[f"{x}, %"] for x in ("codes", "steps", "transforms", "branches", "full precision")
    ]
    assert shares == ["40.00", "20.00", "20.00", "10.00", "10.00"]


def test_costs_are_medians() -> None:
    rows = exhibits.cost_rows(
        [Cost("a", (1.0, 3.0, 2.0), (10.0, 30.0, 20.0)), Cost("b", (1.0,), ())]
    )
    assert [(r["seconds"], r["memory, MB"]) for r in rows] == [("2", "20.0"), ("1", "")]


def test_the_picture_tells_speeds_and_has_equal_bytes(tmp_path: Path) -> None:
    exhibits.latency(tmp_path, BLOCKS, "a machine")
    (entry,) = read_exhibits(tmp_path)
    assert entry["alt"] == (
        "Times as fast as float32. CogVideoX-2b at 64 tokens: arm 3.00; "
        "CogVideoX-2b at 17776 tokens: arm 2.00."
    )
    draw = exhibits.against_tokens(BLOCKS)
    assert render(draw, LIGHT) == render(draw, LIGHT)


def test_a_slice_stands_at_the_clips_tokens_by_token() -> None:
    (axes,) = exhibits.against_tokens(BLOCKS)(LIGHT).axes
    lines = [line.get_xydata().tolist() for line in axes.lines if line.get_linestyle() != ":"]
    assert sorted((x, y) for line in lines for x, y in line) == [
        (64, 3 / 64),
        (64, 9 / 64),
        (17_776, 20 / 128),
        (17_776, 40 / 128),
    ]
