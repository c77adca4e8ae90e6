"""Tables and the picture of made-up measurements."""

from __future__ import annotations

from pathlib import Path

from stages.bench.integer import exhibits, pictures
from stages.bench.integer.cases import BY_NAME, CLIP, Case
from stages.bench.integer.once import Cost
from stages.bench.integer.results import Bits, Plain, Quality
from stages.core.pictures import LIGHT, read_exhibits, render
from stages.quantize.bits import Ledger, Stored
from tests.stages.bench.integer.samples import INTEGERS, timed

BLOCKS = [
    timed(9.0),
    timed(3.0, **INTEGERS),
    timed(40.0, condition=CLIP, shape=(1, 128, 1920)),
    timed(20.0, condition=CLIP, shape=(1, 128, 1920), **INTEGERS),
]


LABELS = {"arm": "An arm"}


def test_blocks_and_those_left_out() -> None:
    left = Case(BY_NAME["cogvideox-5b"], 1, 17_776, 17_776, clip=False)
    rows = exhibits.block_rows(BLOCKS, [left], 2.0)
    assert [(r["tokens"], r["of them run"], r["arm"], r["speed-up"]) for r in rows[:4]] == [
        ("64", 64, "full", "1"),
        ("64", 64, "arm", "3"),
        ("clip", 128, "full", "1"),
        ("clip", 128, "arm", "2"),
    ]
    assert [r["of limit, %"] for r in rows[:4]] == ["22", "67", "5", "10"]
    assert [(r["bits"], r["runs as"]) for r in rows[:2]] == [("", ""), ("W4A6", "W4A8")]
    # The root of 2 * 10^9 bytes over 48 heads of 4 bytes.
    assert rows[4]["arm"] == "not measured: attention takes 60.7 GB; at most 3227 tokens fit"
    assert rows[4]["ms"] == ""
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
    row, *plain = exhibits.size_rows(
        [Bits("latte", "arm", "W4A6", 0, stored, 0.5)],
        [Plain("latte", 0, {"bf16": 0.8094, "full": 1.6})],
    )
    assert (row["in 16 bits"], row["so stored"], row["file"]) == ("0.250 kB", "0.125 kB", "500 kB")
    assert [(r["arm"], r["bits"], r["file"]) for r in plain] == [
        ("bf16", "", "809 kB"),
        ("full", "", "1.60 MB"),
    ]
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
    pictures.latency(tmp_path, BLOCKS, "a machine", LABELS, 2.0)
    (entry,) = read_exhibits(tmp_path)
    assert entry["alt"] == (
        "Times as fast as float32. CogVideoX-2b at 64 tokens: An arm 3.00; "
        "CogVideoX-2b at 17776 tokens: An arm 2.00."
    )
    assert "attention does not fit into 2 GB (CogVideoX-2b: 38 GB)." in entry["caption"]
    draw = pictures.against_tokens(BLOCKS, LABELS)
    assert render(draw, LIGHT) == render(draw, LIGHT)


def test_a_slice_stands_at_the_clips_tokens_by_token() -> None:
    (axes,) = pictures.against_tokens(BLOCKS, LABELS)(LIGHT).axes
    lines = [line.get_xydata().tolist() for line in axes.lines if line.get_linestyle() != ":"]
    assert sorted((x, y) for line in lines for x, y in line) == [
        (64, 3 / 64),
        (64, 9 / 64),
        (17_776, 20 / 128),
        (17_776, 40 / 128),
    ]


def test_a_whole_clip_that_was_timed_is_not_said_to_be_left_out() -> None:
    there = timed(90.0, condition="tokens=17776", shape=(1, 17_776, 1920))
    told = pictures.slices([*BLOCKS, there], 2.0)
    assert told == "some tokens that attend to all that they would in it."


def test_a_slice_is_only_said_to_be_needed_where_a_clip_does_not_fit() -> None:
    small = {"backbone": "latte-xl-2", "condition": CLIP, "shape": (1, 128, 1152)}
    told = pictures.slices([*BLOCKS, timed(9.0, **small)], 2.0)
    assert "does not fit into 2 GB (CogVideoX-2b: 38 GB); " in told
    assert told.endswith(
        "would fit into 2 GB (Latte-XL/2: 0.067 GB), and was left out for its time."
    )


def test_lines_are_called_by_their_arms_and_differ() -> None:
    many = [timed(9.0)]
    many += [timed(3.0, **{**INTEGERS, "variant": f"arm{k}"}) for k in range(8)]
    many.append(timed(3.0, **{**INTEGERS, "variant": "arm_tensor", "kernel": "tensor"}))
    figure = pictures.against_tokens(many, LABELS)(LIGHT)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert (names[0], names[-1]) == ("float32", "An arm, int8, one step a tensor")
    looks = [
        (line.get_color(), line.get_marker())
        for line in figure.axes[0].lines
        if line.get_linestyle() != ":" and len(line.get_xdata())
    ]
    assert len(looks) == 10 and len({str(look) for look in looks}) == 10


def test_sizes_have_three_digits_and_a_unit() -> None:
    found = [exhibits.size(x) for x in (402_900, 556.7e6, 25.64e9, 1_743_209)]
    assert found == ["403 kB", "557 MB", "25.6 GB", "1.74 MB"]
