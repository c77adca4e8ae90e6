import csv
import logging

import onnx
import pytest
import torch
from safetensors.torch import save_file

from pipelines.sepprune import bench
from pipelines.sepprune.model import build
from stages.core import params as core
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.core.job import Inputs
from stages.core.pictures import read_exhibits
from stages.core.results import read_scores
from tests.jobs import for_tests

CONFIG = {
    "name": "sudormrf", "voices": 2, "basis": 16, "kernel": 21, "stride": 10, "bottleneck": 8,
    "hidden": 32, "blocks": 2, "depth": 2,
}  # fmt: skip
LOG = logging.getLogger("test")
DEPS = tuple(f"work/sepprune/{s}" for s in ("teach", "calibrate", "prune"))
NODE = Node("sepprune", "bench", None, None, DEPS, (), ())
VALUES = {
    "common": {"threads": 1},
    "sepprune": {
        "prepare": {"rate": 8000},
        "bench": {
            "variants": ["sepprune"], "seeds": [0], "seconds": 0.1, "threads": [1, 2],
            "rounds": 2, "repeats": 2, "warmup": 0, "tolerance": 1.0e-4,
            "train_step": {"batch": 1, "warmup": 1, "repeats": 2},
        },
    },
}  # fmt: skip
KEYS = {
    "paper", "variant", "runtime", "weight_bits", "activation_bits", "threads", "shape",
    "latency_ms", "baseline_latency_ms", "size_mb", "baseline_size_mb", "peak_memory_mb", "macs",
    "device", "backbone",
}  # fmt: skip


def params(**changes):
    values = {**VALUES["sepprune"]["bench"], **changes}
    sections = {**VALUES, "sepprune": {**VALUES["sepprune"], "bench": values}}
    return core.build(bench.Params, sections, "sepprune", "bench")


def keep_net(config, folder, file="model.safetensors"):
    torch.manual_seed(0)
    net = build(config)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), folder / file)
    write_json(folder / "config.json", net.config)
    return net


def prepare(root):
    """A teacher, an arm of half its width in two snapshots, and the device's fingerprint."""
    work = root / "work/sepprune"
    dense = keep_net(CONFIG, work / "teach/sudormrf")
    half = dense.with_widths({group.name: group.size // 2 for group in dense.groups()})
    arm = work / "prune/sepprune/0-2/sudormrf/seed0"
    for updates in (0, 200):
        keep_net(half, arm, f"u{updates:05d}.safetensors")
    at = [{"file": f"u{n:05d}.safetensors", "ft": n, "total": n + 100} for n in (200, 0)]
    write_json(arm / "snapshots.json", at)
    for variant, seed in (("sepprune", 0), ("l1", 0), ("l1", 1)):
        cut = work / f"prune/{variant}/0-2/sudormrf/seed{seed}"
        cut.mkdir(parents=True, exist_ok=True)
        overlap = 0.25 if variant == "sepprune" else None
        kept = {"parameters": 100 + seed, "macs_per_second": 5000, "jaccard_of_two_draws": overlap}
        write_json(cut / "keep.json", kept)
    (work / "calibrate").mkdir()
    (work / "calibrate/structure.csv").write_text(
        "backbone,module,macs,share\nsudormrf,encoder,10,0.25\nsudormrf,sm.0.proj_1x1.conv,30,0.75\n"
    )
    machine = {"cpu": "Abacus 3000", "cores": 2, "memory_gb": 8, "gpu": [], "os": "Linux x86_64"}
    write_json(root / "work/device.json", machine)
    return work


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The output of the whole stage on small nets."""
    root = tmp_path_factory.mktemp("bench")
    prepare(root)
    out = root / "out"
    out.mkdir()
    with for_tests(root, NODE) as job:
        bench.run(params(), Inputs(root, NODE), out, job)
    return out


def test_arms_that_are_not_timed_are_counted_all_the_same(done):
    table = read_scores(done / "scores.parquet")
    l1 = table[table["variant"] == "l1"]
    assert sorted(zip(l1["metric"], l1["seed"], l1["value"], strict=True)) == [
        ("macs", 0, 500.0), ("macs", 1, 500.0), ("parameters", 0, 100.0), ("parameters", 1, 101.0),
    ]  # fmt: skip
    share = table[table["metric"] == "separator_macs_share"]
    overlap = table[table["metric"] == "mask_overlap"]
    assert overlap[["variant", "value", "unit"]].to_numpy().tolist() == [["sepprune", 25.0, "%"]]
    assert share[["variant", "value", "unit"]].to_numpy().tolist() == [["dense", 75.0, "%"]]


def test_time_stands_beside_arithmetic_for_each_module(done):
    lines = (done / "modules.csv").read_text().splitlines()
    assert lines[0] == "net,module,MACs %,time %,time ms"
    assert [line.split(",")[1:3] for line in lines[1:]] == [
        ["sm.0.proj_1x1.conv", "75.0"], ["encoder", "25.0"],
    ]  # fmt: skip
    assert all(0 < float(line.split(",")[3]) < 100 for line in lines[1:])


def test_every_network_and_thread_count_has_a_row(done):
    rows = read_json(done / "bench.json")
    assert [(r["variant"], r["threads"]) for r in rows] == [
        ("dense", 1), ("dense", 2), ("sepprune", 1), ("sepprune", 2),
    ]  # fmt: skip
    for row in rows:
        assert row.keys() >= KEYS
        assert row["device"] == "Abacus 3000, 2 cores, 8 GB, Linux x86_64"
        assert row["shape"] == [1, 800] and row["runtime"].startswith("onnxruntime")
        assert row["rtf"] == pytest.approx(row["latency_ms"] / 100)
        assert row["latency_low_ms"] <= row["latency_ms"] <= row["latency_high_ms"]
        assert row["output_error"] < 1e-4
    dense, small = rows[0], rows[2]
    assert small["baseline_latency_ms"] == dense["latency_ms"] == dense["baseline_latency_ms"]
    assert small["baseline_macs"] == dense["macs"] > small["macs"]
    for key in ("size_mb", "parameters", "train_memory_mb"):
        assert small[key] < dense[key] == small[f"baseline_{key}"]


def test_the_scores_hold_what_the_rows_say(done):
    scores = read_scores(done / "scores.parquet")
    small = read_json(done / "bench.json")[2]
    rows = scores[(scores["variant"] == "sepprune") & (scores["condition"] == "threads=1")]
    latency = rows[rows["metric"] == "latency_ms"]
    assert list(latency["item"]) == ["000", "001"] and set(latency["seed"]) == {0}
    assert latency["value"].median() == small["latency_ms"]
    memory = rows[rows["metric"] == "peak_memory_mb"]
    assert memory["value"].median() == small["peak_memory_mb"] < 150  # no torch in there
    counts = scores[(scores["variant"] == "sepprune") & (scores["item"] == "")]
    counts = counts[counts["metric"] != "mask_overlap"]
    assert dict(zip(counts["metric"], counts["value"], strict=True)) == pytest.approx(
        {key: small[key] for key in ("macs", "parameters", "size_mb", "train_memory_mb")}
    )


def test_the_exported_networks_are_there(done):
    assert sorted(p.name for p in (done / "models").iterdir()) == [
        "sudormrf-dense.onnx", "sudormrf-sepprune-seed0.onnx",
    ]  # fmt: skip
    model = onnx.load(done / "models/sudormrf-sepprune-seed0.onnx")
    assert [entry.name for entry in (*model.graph.input, *model.graph.output)] == ["mix", "sources"]


def test_what_is_shown(done):
    picture, table, modules = read_exhibits(done)
    assert [e["kind"] for e in (picture, table, modules)] == ["picture", "table", "table"]
    assert "SuDoRM-RF, SepPrune: " in picture["alt"] and "on 2 threads" in picture["alt"]
    with (done / table["file"]).open() as file:
        dense, small = csv.DictReader(file)
    assert dense["saved, %"] == "0" and float(small["saved, %"]) > 10
    summary = read_json(done / "metrics.json")["sudormrf"]
    assert summary["dense"]["threads_1"]["speedup"] == 1
    assert summary["sepprune-seed0"]["macs"] < summary["dense"]["macs"]


def test_nothing_in_the_output_names_a_path(done):
    for path in done.rglob("*"):
        if path.is_file():
            assert str(done.parent).encode() not in path.read_bytes()


def test_the_last_snapshot_is_measured_and_an_absent_arm_of_one_net_is_passed_over(tmp_path):
    work = prepare(tmp_path)
    keep_net({**CONFIG, "blocks": 1}, work / "teach/other")
    found = bench.find(params(), work / "teach", work / "prune", LOG)
    assert [(s.name, s.weights) for s in found] == [
        ("other-dense", "model.safetensors"),
        ("sudormrf-dense", "model.safetensors"),
        ("sudormrf-sepprune-seed0", "u00200.safetensors"),
    ]


def test_an_arm_that_no_net_has_is_an_error_that_says_what_there_is(tmp_path):
    work = prepare(tmp_path)
    wanted = params(variants=["sepprune", "magic"])
    with pytest.raises(
        UserError, match=r"no network of magic with seed 0; prune made: l1, sepprune"
    ):
        bench.find(wanted, work / "teach", work / "prune", LOG)


def test_a_tolerance_that_is_not_met_stops_the_stage(tmp_path):
    work = prepare(tmp_path)
    source = bench.Source("sudormrf", "dense", 0, work / "teach/sudormrf", "model.safetensors")
    with pytest.raises(UserError, match="sudormrf-dense"):
        bench.export(source, params(tolerance=1e-12), tmp_path)


def test_the_training_step_trains(tmp_path):
    work = prepare(tmp_path)
    step = bench.training_step(str(work / "teach/sudormrf"), "model.safetensors", 2, 800)
    losses = [step() for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("key, value", [("rounds", 0), ("threads", []), ("tolerance", 0.0)])
def test_parameters_out_of_range_are_refused(key, value):
    with pytest.raises(UserError, match=f"sepprune.bench.{key}"):
        params(**{key: value})
