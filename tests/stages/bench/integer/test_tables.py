"""What is written down of a bench, from made-up measurements, and what claims find in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stages.bench.integer.cases import BY_NAME, CLIP, Case
from stages.bench.integer.once import Cost
from stages.bench.integer.results import Bits, Plain, Quality, Results, Update
from stages.bench.integer.tables import write
from stages.bench.kernels.roofline import Limits
from stages.bench.ratio import Ratio
from stages.claims.model import Measure
from stages.claims.select import pair
from stages.core.files import read_json
from stages.core.pictures import read_exhibits
from stages.core.results import read_scores
from stages.prepare.tables import read_csv
from stages.quantize.bits import Ledger, Stored
from tests.stages.bench.integer.samples import INTEGERS, timed

OURS = {"backbone": "cogvideox", "condition": "W4A8", "shape": (2, 8, 1, 12, 12), "least_ms": None}
SLICE = {"condition": CLIP, "shape": (1, 128, 1920)}
QUALITY = Quality(
    "cogvideox", "arm", "W4A6", 3, ["test-0", "test-1"], [20.0, 21.0], [20.0, 20.0], [50.0, 60.0],
    [90.0, 95.0],
)  # fmt: skip
STORED = Stored(Ledger(codes=400, full=10), weights=100, values=100)
FOUND = Results(
    paper="p",
    machine="a machine",
    labels={"arm": "An arm"},
    steps=20,
    judged="two clips",
    limits=Limits(1, 100.0, 400.0, 20.0),
    models=[timed(2.0, 4.0, **OURS), timed(1.0, 3.0, **OURS, **INTEGERS)],
    quality=[QUALITY],
    blocks=[timed(30.0, 40.0, **SLICE), timed(10.0, 20.0, **SLICE, **INTEGERS)],
    beyond=[Case(BY_NAME["cogvideox-5b"], 1, 17_776, 17_776, clip=False)],
    attention_gb=2.0,
    bits=[
        Bits("cogvideox", "arm", "W4A6", 3, STORED, 0.25),
        Bits("cogvideox-5b", "arm", "W4A6", 0, STORED, None),
    ],
    plain=[Plain("cogvideox", 3, {"bf16": 0.75, "full": 1.5})],
    costs=[Cost("arm", (1.5, 2.5), (30.0, 40.0))],
    calibrated="W4A6",
    updates=[Update("width-64", "arm", "W4A6", Ratio(2.0, 6.0, (2.5, 3.5)))],
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tables")
    write(FOUND, made)
    return made


def test_all_is_listed(out: Path) -> None:
    assert [entry["name"] for entry in read_exhibits(out)] == [
        "latency", "integer", "blocks", "models", "quality", "sizes", "calibration", "updates",
    ]  # fmt: skip
    assert len(read_json(out / "bench.json")) == 4
    blocks = next(e for e in read_exhibits(out) if e["name"] == "blocks")
    for part in ("a machine", "more than 2 GB", "100 float32 and 400 int8 GOP/s", "on 1 thread;"):
        assert part in blocks["caption"]
    summary = read_json(out / "metrics.json")
    assert summary["cogvideox-2b"]["arm"][CLIP]["speedup"] == pytest.approx(35 / 15, abs=1e-4)
    assert summary["cogvideox"]["arm"]["W4A6"] == {
        "deployed_agreement": 55.0, "deployed_sqnr": 20.0, "stored_bits": 4.1,
        "compression": pytest.approx(3.9024, abs=1e-4),
    }  # fmt: skip
    assert summary["calibration"]["arm"]["W4A6"] == {"seconds": 2.0}
    assert summary["updates"] == {"width-64": {"arm": {"ratio": 3.0}}}


def test_only_timings_are_called_so_and_one_table_stands_open(out: Path) -> None:
    entries = {entry["name"]: entry for entry in read_exhibits(out)}
    assert {name for name, entry in entries.items() if entry.get("timing") == "no"} == {
        "quality", "sizes",
    }  # fmt: skip
    assert [name for name, entry in entries.items() if entry.get("shown")] == ["integer"]
    assert "means over two clips" in entries["quality"]["caption"]
    assert "evaluate counts 32" in entries["sizes"]["caption"]


def test_one_table_joins_sizes_memory_and_times(out: Path) -> None:
    rows = read_csv(out / "integer.csv")
    told = [(r["net"], r["arm"], r["bits"], r["runs as"], r["measured"]) for r in rows]
    step, part = "the network, one step", "a block, 128 of 17776 tokens"
    assert told == [
        ("cogvideox", "full precision", "32", "32", step),
        ("cogvideox", "An arm", "W4A6", "W4A8", step),
        ("CogVideoX-2b", "full precision", "32", "32", part),
        ("CogVideoX-2b", "An arm", "W4A6", "W4A8", part),
    ]
    full, own, _, block = rows
    assert (own["true bits a number"], full["true bits a number"]) == ("4.1", "32")
    assert (own["its file"], full["its file"]) == ("250 kB", "1.50 MB")
    assert own["times smaller than 16 bits"] == "3.902"
    assert full["times smaller than 16 bits"] == "0.5"
    assert (own["ms"], own["times as fast as float32"]) == ("2", "1.5")
    # No bits of this network were counted here.
    assert block["true bits a number"] == block["its file"] == "–"
    assert block["times as fast as float32"] == "2.33"


def measured(out: Path, **changes: object) -> list[list[float]]:
    """What a claim finds: the arm's and its baseline's scores."""
    base = {"table": "bench", "variant": "arm", "aggregate": "mean", "compare": "speedup"}
    found = pair(
        Measure.model_validate({**base, "items": "counted", **changes}),
        {"bench": read_scores(out / "scores.parquet")},
    )
    return [found.a[0].tolist(), [] if found.b is None else found.b[0].tolist()]


def test_claims_find_true_bits_beside_sixteen(out: Path) -> None:
    place = {"metric": "stored_bits", "baseline": "bf16", "condition": "W4A6"}
    for backbone in ("cogvideox-5b", "cogvideox"):
        assert measured(out, **place, backbone=backbone) == [[4.1], [16.0]]


def test_claims_find_rounds_of_a_slice(out: Path) -> None:
    place = {"metric": "latency_ms", "baseline": "full", "backbone": "cogvideox-2b"}
    found = measured(out, **place, condition=CLIP, items="repeats")
    assert found == [[10.0, 20.0], [30.0, 40.0]]


def test_claims_find_clips_and_calibration(out: Path) -> None:
    value = {"compare": "value", "backbone": "cogvideox", "items": "repeats"}
    assert measured(out, **value, metric="clip_ms", condition="W4A8")[0] == [20.0, 60.0]
    assert measured(out, **value, metric="deployed_agreement")[0] == [50.0, 60.0]
    assert measured(out, **value, metric="calibration_ms")[0] == [1500.0, 2500.0]
    assert measured(out, **value, metric="calibration_memory_mb")[0] == [30.0, 40.0]
    assert measured(out, **value, metric="file_mb")[0] == [0.25]


def test_claims_find_the_file_beside_the_plain_one(out: Path) -> None:
    place = {"metric": "file_mb", "backbone": "cogvideox", "condition": "W4A6"}
    assert measured(out, **place, baseline="bf16") == [[0.25], [0.75]]
    assert measured(out, **place, baseline="full") == [[0.25], [1.5]]


def test_blocks_and_bits_alone_are_enough(tmp_path: Path) -> None:
    bare = replace(
        FOUND, models=[], quality=[], costs=[], bits=[FOUND.bits[1]], plain=[], updates=[]
    )
    write(bare, tmp_path)
    assert [e["name"] for e in read_exhibits(tmp_path)] == [
        "latency", "integer", "blocks", "sizes",
    ]  # fmt: skip
    metrics = set(read_scores(tmp_path / "scores.parquet")["metric"])
    assert metrics == {
        "latency_ms", "peak_memory_mb", "model_memory_mb", "size_mb", "stored_bits",
        "stored_weight_bits",
    }  # fmt: skip
    assert len(read_json(tmp_path / "bench.json")) == 2
