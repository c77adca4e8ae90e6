"""The stage `bench` on a small teacher: what is deployed, timed, counted and calibrated."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.s2q_vdit import bench, calibrate, quantize
from stages.bench.integer.cases import BY_NAME, Case
from stages.bench.integer.stored import stored
from stages.core import environment
from stages.core import params as core
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.core.job import Inputs
from stages.core.pictures import read_exhibits
from stages.core.results import read_scores
from stages.quantize.layers import QuantLinear, quantized
from stages.report.page import _BENCH_KEYS
from tests.jobs import for_tests
from tests.pipelines.s2q_vdit import small

DEPS = (
    "work/foundations/video/prepare",
    "work/foundations/video/teach/cogvideox",
    "work/foundations/video/gate/cogvideox",
    "work/s2q_vdit/calibrate",
    "work/s2q_vdit/quantize",
)
NODE = Node("s2q_vdit", "bench", None, None, DEPS, (), ())
ARMS: dict[str, Any] = {
    "s2q": {"selection": "sds", "least": 0.5, "base": small.raw_base("full")},
    "rtn": {"selection": None, "least": None, "base": small.raw_base("nearest")},
}
ONCE, TWICE = ({"rounds": rounds, "repeats": 1, "warmup": 0} for rounds in (1, 2))
VALUES: dict[str, Any] = {
    "common": {"threads": 1, "device": "cpu"},
    "s2q_vdit": {
        "calibrate": {"prompts": 5, "count": 3, "norm": "spectral", "batch": 5},
        "quantize": {
            "seeds": ["0"], "bits": ["W4A6", "W8A8"], "branches": "both", "text": "apart",
            "layers": [{"pattern": "*", "inputs": True}], "held": 2,
            "course": small.COURSE | {"epochs": 1}, "variants": ARMS,
        },
        "evaluate": {"seed": 0, "free": {"clips": 6}, "forced": {"steps": 3}},
        "bench": {
            "threads": 1,
            "limits": {
                "arithmetic": [{"tokens": 16, "width": 64}, {"tokens": 8, "width": 64}],
                "reading": 128, "often": ONCE,
            },
            "models": {
                "arms": {"s2q": ["exact", "tensor"]}, "bits": ["W4A6"], "seed": 0, "clips": 2,
                "often": TWICE,
            },
            "blocks": {
                "arms": {"s2q": ["exact"], "rtn": ["blocks"]}, "bits": "W4A6",
                "nets": {"tiny": [4, 64]}, "part": 4, "attention_gb": 1e-5,
                "gigamacs": 1.0, "often": ONCE,
            },
            "stored": {"arms": ["s2q", "rtn"], "bits": ["W4A6"]},
            "calibration": {"arms": ["s2q"], "bits": "W4A6", "seed": 0, "repeats": 1},
            "updates": {
                "arms": ["s2q"], "bits": "W4A4", "turns": 2,
                "blocks": [{"width": 16, "heads": 2, "frames": 2, "side": 2}],
            },
        },
    },
}  # fmt: skip


def params(**changes: Any) -> bench.Params:
    own = {**VALUES["s2q_vdit"]["bench"], **changes}
    values = {**VALUES, "s2q_vdit": {**VALUES["s2q_vdit"], "bench": own}}
    return core.build(bench.Params, values, "s2q_vdit", "bench")


def project(root: Path) -> None:
    """What the stages before leave, made by them on a small teacher."""
    found = small.inputs(root / "made")
    for name, folder in found.items():
        shutil.copytree(folder, root / "work" / name)
    machine = {"cpu": "Abacus 3000", "cores": 2, "memory_gb": 8, "gpu": [], "os": "Linux x86_64"}
    write_json(root / "work/device.json", machine)
    environment.make_deterministic(1)
    pools = root / "work/s2q_vdit/calibrate"
    pools.mkdir(parents=True)
    with for_tests(root, NODE) as job:
        own = {**VALUES["s2q_vdit"]["calibrate"], "seeds": ["0"]}
        calibrate.run(calibrate.Params.model_validate(own), Inputs(root, NODE), pools, job)
    for arm in ARMS:
        out = root / f"work/s2q_vdit/quantize/{arm}/0"
        out.mkdir(parents=True)
        made = core.build(quantize.Params, VALUES, "s2q_vdit", "quantize", arm)
        node = Node("s2q_vdit", "quantize", arm, "0", DEPS, (), ())
        with for_tests(root / arm, node) as job:
            quantize.run(made, Inputs(root, node), out, job)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("s2q")
    project(made)
    return made


@pytest.fixture(scope="module")
def done(root: Path, tiny: str) -> Path:
    out = root / "out"
    out.mkdir()
    with for_tests(root, NODE) as job:
        bench.run(params(), Inputs(root, NODE), out, job)
    return out


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A published network of no size, so that its blocks take no time."""
    from dataclasses import replace

    with pytest.MonkeyPatch.context() as patch:
        net = replace(BY_NAME["cogvideox-2b"], name="Tiny", width=32, heads=2, video=28, text=4,
                      attended=32)  # fmt: skip
        patch.setitem(BY_NAME, "tiny", net)
        yield "tiny"


def test_rows_fit_the_table_across_papers(done: Path) -> None:
    rows = read_json(done / "bench.json")
    assert {(r["backbone"], r["condition"], r["variant"]) for r in rows} == {
        *(("cogvideox", "W4A8", v) for v in ("full", "s2q", "s2q_tensor")),
        *(
            ("tiny", condition, variant)
            for condition in ("tokens=4", "tokens=clip")
            for variant in ("full", "s2q", "rtn_blocks")
        ),
    }
    for row in rows:
        assert set(row) >= _BENCH_KEYS and row["paper"] == "s2q_vdit"
        assert row["latency_ms"] > 0 and row["size_mb"] > 0 and row["macs"] > 0
        assert row["device"].startswith("Abacus 3000, 2 cores, 8 GB, Linux x86_64; 8-bit products")
        integers = row["variant"] != "full"
        # Six bits have no kernel: they are codes in eight.
        assert row["activation_bits"] == (8 if integers else 32)
        assert row["activation_codes"] == (6 if integers else 32)
        assert row["weight_bits"] == (4 if integers else 32)
        base = next(
            r for r in rows
            if (r["backbone"], r["condition"], r["variant"])
            == (row["backbone"], row["condition"], "full")
        )  # fmt: skip
        assert row["baseline_latency_ms"] == base["latency_ms"]
    assert {r["runtime"].partition(", ")[2] for r in rows} == {
        "float32", "int8", "int8, one step a tensor", "MatMulNBits",
    }  # fmt: skip


def test_blocks_whose_scores_do_not_fit_are_told_of(done: Path) -> None:
    with (done / "blocks.csv").open(newline="") as file:
        left = [row for row in csv.DictReader(file) if not row["ms"]]
    assert [(r["net"], r["tokens"], r["arm"]) for r in left] == [
        ("Tiny", "64", "not measured: attention takes 1.64e-05 GB; at most 32 tokens fit")
    ]


def test_what_runs_is_what_was_evaluated(done: Path) -> None:
    table = read_scores(done / "scores.parquet")
    quality = table[table["metric"] == "deployed_agreement"]
    assert set(quality["condition"]) == {"W4A6"} and set(quality["direction"]) == {"higher"}
    least = quality.groupby("variant")["value"].min()
    # Floats between layers round otherwise, and here and there an input gets the next code.
    assert least["s2q"] > 40
    # The runtime's own rounding has eight bits and one step for all tokens: another network.
    assert least["s2q_tensor"] < 40
    own = table[table["metric"] == "kernel_agreement"].groupby("variant")["value"].min()
    assert own["s2q_tensor"] > 40
    sqnr = table[table["metric"] == "deployed_sqnr"].groupby("variant")["value"].mean()
    evaluated = table[table["metric"] == "evaluated_sqnr"].groupby("variant")["value"].mean()
    assert sqnr["s2q"] == pytest.approx(evaluated["s2q"], abs=0.5)


def test_scores_hold_rounds_clips_and_counts(done: Path) -> None:
    table = read_scores(done / "scores.parquet")
    by = table.set_index(["metric", "backbone", "variant", "condition", "item"])["value"]
    for number in ("000", "001"):
        step = by["latency_ms", "cogvideox", "s2q", "W4A8", number]
        assert by["clip_ms", "cogvideox", "s2q", "W4A8", number] == pytest.approx(5 * step)
    bits = table[table["metric"] == "stored_bits"]
    assert {"bf16", "full", "s2q", "rtn"} == set(bits["variant"])
    whole = by["stored_bits", "cogvideox-5b", "s2q", "W4A6", ""]
    assert by["stored_bits", "cogvideox-5b", "bf16", "", ""] / whole == pytest.approx(3.9, abs=0.06)
    assert by["calibration_ms", "cogvideox", "s2q", "W4A6", "000"] > 0
    assert by["calibration_memory_mb", "cogvideox", "s2q", "W4A6", "000"] > 0
    file = by["file_mb", "cogvideox", "s2q", "W4A6", ""]
    place = done.parent / "work/s2q_vdit/quantize/s2q/0/W4A6/seed0/model.safetensors"
    assert file == place.stat().st_size / 1e6
    # All tensors of the teacher, in 16 and in 32 bits, and a header.
    teach = done.parent / "work/foundations/video/teach/cogvideox"
    taught = teach / "transformer/diffusion_pytorch_model.safetensors"
    half, full = (by["file_mb", "cogvideox", v, "", ""] for v in ("bf16", "full"))
    assert full == pytest.approx(taught.stat().st_size / 1e6, rel=0.02)
    assert half < 0.6 * full
    assert by["calibration_ms", "cogvideox", "calibrate", "W4A6", "000"] > 0


def test_nothing_is_left_but_results(done: Path) -> None:
    names = {path.name for path in done.iterdir()}
    tables = {
        "integer.csv", "blocks.csv", "models.csv", "quality.csv", "sizes.csv",
        "calibration.csv", "updates.csv",
    }  # fmt: skip
    files = {"bench.json", "scores.parquet", "metrics.json", "exhibits.json"}
    assert names == tables | files | {"pictures", "models"}
    assert {path.name for path in (done / "models").iterdir()} == {
        f"cogvideox-{v}.onnx" for v in ("full", "W4A6-s2q", "W4A6-s2q_tensor")
    }
    shown = [entry["name"] for entry in read_exhibits(done)]
    assert shown == [
        "latency",
        "integer",
        "blocks",
        "models",
        "quality",
        "sizes",
        "calibration",
        "updates",
    ]


def test_an_update_of_reconstruction_is_timed_against_a_pass(done: Path) -> None:
    table = read_scores(done / "scores.parquet")
    own = table[table["metric"] == "update_over_pass"]
    assert list(own["item"]) == ["000", "001"] and set(own["condition"]) == {"W4A4"}
    assert set(own["backbone"]) == {"width-16"} and set(own["variant"]) == {"s2q"}
    assert (own["value"] > 1).all()


def test_an_arm_that_learns_nothing_has_no_updates() -> None:
    asked = VALUES["s2q_vdit"]["bench"]["updates"] | {"arms": ["rtn"]}
    with pytest.raises(UserError, match=r"updates\.arms: 'rtn' learns nothing"):
        bench.updates(params(updates=asked), lambda _: VALUES)


def test_a_missing_arm_is_named(root: Path, tmp_path: Path) -> None:
    asked = {**VALUES["s2q_vdit"]["bench"]["models"], "arms": {"s2q": ["exact"]}, "bits": ["W3A3"]}
    with for_tests(root, NODE) as job, pytest.raises(UserError, match=r"no s2q at W3A3.*s2q/0/W4"):
        bench.run(params(models=asked), Inputs(root, NODE), tmp_path, job)


def test_a_block_has_the_arms_transform(tiny: str) -> None:
    from stages.bench.kernels.block import Block

    case = Case(BY_NAME[tiny], 1, 4, 4, clip=False)
    for name, parts in (("full", 2), ("rotated", 1), ("nearest", 0)):
        block = Block(32, 2, 4)
        bench.dress(small.base(name), "W4A6")(block, case)
        layers = quantized(block)
        assert len(layers) == 6
        assert layers["to_q"].transform is layers["to_k"].transform is layers["to_v"].transform
        assert layers["to_q"].inputs is layers["to_v"].inputs is not layers["to_out"].inputs
        for layer in layers.values():
            found = [] if layer.transform is None else list(layer.transform.parts)  # type: ignore[arg-type]
            assert len(found) == parts
            assert layer.weights.grid.bits == 4
            assert layer.inputs is not None and layer.inputs.grid.bits == 6


def test_transforms_and_clips_are_counted_at_published_shapes() -> None:
    net = BY_NAME["cogvideox-5b"]
    own = stored(net, bench.make(small.base("full"), "W4A6"), bench.owners).ledger
    plain = stored(net, bench.make(small.base("nearest"), "W4A6")).ledger
    assert own.codes == plain.codes == 4 * net.weights
    assert plain.transforms == plain.inputs == 0
    # A learned scale, two factors and two clips of inputs, in 16 bits; queries, keys and values
    # share them, so that an attention has two, a feed-forward network and modulation two each.
    assert sum(bench.owners(layer) for layer in net.layers) == 6 * 42
    sizes = {512: (16, 32), 3072: (48, 64), 12288: (96, 128)}
    numbers = sum(
        bench.owners(layer) * (layer.columns + sum(x * x for x in factors(layer.columns)))
        for layer in net.layers
    )
    assert set(sizes) == {layer.columns for layer in net.layers}
    assert own.transforms == 16 * numbers
    assert own.inputs == 16 * 2 * sum(bench.owners(layer) for layer in net.layers)
    assert own.full == plain.full == 16 * net.others


def factors(columns: int) -> tuple[int, int]:
    made = bench.make(small.base("full"), "W4A6")
    shape = next(x for x in BY_NAME["cogvideox-5b"].layers if x.columns == columns)
    with torch.device("meta"):
        linear = nn.Linear(columns, 4, bias=False)
    layer: QuantLinear = made(linear, shape)
    assert layer.transform is not None
    kronecker = next(iter(layer.transform.parts))  # type: ignore[arg-type]
    a, b = len(kronecker.left), len(kronecker.right)
    assert a * b == columns
    return a, b
