"""SDKD's bench on small nets: what is exported, timed and counted, and what a step costs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import onnx
import pytest

from pipelines.sdkd import bench, calibrate, steps
from stages.core import params as core
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.core.job import Inputs
from stages.core.pictures import read_exhibits
from stages.core.results import read_scores
from tests.jobs import for_tests
from tests.pipelines.sdkd.nets import Waves, calibrated, keep
from tests.pipelines.sdkd.test_pupil import ARMS

DEPS = tuple(f"work/sdkd/{s}" for s in ("teach", "calibrate", "tune", "distill"))
NODE = Node("sdkd", "bench", None, None, DEPS, (), ())
VALUES: dict[str, Any] = {
    "common": {"threads": 1},
    "sdkd": {
        "calibrate": {"teacher": "alternet"},
        "bench": {
            "variants": ["sdkd"], "seeds": [0], "threads": [1, 2], "rounds": 1, "repeats": 2,
            "warmup": 0, "tolerance": 1.0e-4,
            "train_step": {"arms": ["none", "output"], "batch": 2, "warmup": 1, "repeats": 3},
        },
    },
}  # fmt: skip


def params(**changes: Any) -> bench.Params:
    values = {**VALUES["sdkd"]["bench"], **changes}
    sections = {**VALUES, "sdkd": {**VALUES["sdkd"], "bench": values}}
    return core.build(bench.Params, sections, "sdkd", "bench")


def prepare(root: Path) -> Path:
    """A teacher with its answers, two arms, and the device's fingerprint."""
    work = root / "work/sdkd"
    with for_tests(root, NODE) as job, pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate.Fields, "load", lambda folder: Waves())
        calibrated(work / "teach", work / "calibrate", job)
    for arm in ("sdkd", "output"):
        keep(work / f"distill/{arm}/0-1/unet/seed0", "unet")
        (work / "tune" / arm).mkdir(parents=True)
        chosen = {"unet": {"lambda": 0.5, "alpha": 1.0}}
        write_json(work / "tune" / arm / "chosen.json", {"arm": ARMS[arm], "students": chosen})
    machine = {"cpu": "Abacus 3000", "cores": 2, "memory_gb": 8, "gpu": [], "os": "Linux x86_64"}
    write_json(root / "work/device.json", machine)
    return work


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the whole stage on small nets."""
    root = tmp_path_factory.mktemp("bench")
    prepare(root)
    out = root / "out"
    out.mkdir()
    with for_tests(root, NODE) as job:
        bench.run(params(), Inputs(root, NODE), out, job)
    return out


def test_the_student_stands_beside_the_teacher(done: Path) -> None:
    rows = read_json(done / "bench.json")
    assert [(r["backbone"], r["variant"], r["threads"]) for r in rows] == [
        ("unet", variant, threads) for variant in ("dense", "sdkd") for threads in (1, 2)
    ]
    for row in rows:
        assert row["device"] == "Abacus 3000, 2 cores, 8 GB, Linux x86_64"
        assert row["shape"] == [1, 3, 2, 16, 16]
        assert row["output_error"] < 1e-4
    dense, small = rows[0], rows[2]
    assert small["baseline_macs"] == dense["macs"] > small["macs"]
    assert small["parameters"] < dense["parameters"] == small["baseline_parameters"]
    assert small["baseline_latency_ms"] == dense["latency_ms"]


def test_only_the_forecast_is_exported(done: Path) -> None:
    names = sorted(p.name for p in (done / "models").iterdir())
    assert names == ["unet-dense.onnx", "unet-sdkd-seed0.onnx"]
    model = onnx.load(done / "models/unet-sdkd-seed0.onnx")
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["frames", "forecast"]


def test_steps_are_paired_turn_by_turn(done: Path) -> None:
    table = read_scores(done / "scores.parquet")
    own = table[table["backbone"] == "unet"].set_index(["variant", "metric", "item"])["value"]
    for turn in ("000", "001", "002"):
        plain = own["none", "train_step_ms", turn]
        for arm in ("sdkd", "output"):
            step = own[arm, "train_step_ms", turn]
            assert own[arm, steps.OVER_PLAIN, turn] == pytest.approx(step / plain)
        assert own["dense", steps.FORWARD, turn] < own["dense", "train_step_ms", turn]
    assert ("none", steps.OVER_PLAIN) not in {key[:2] for key in own.index}
    memory = own.loc[["none", "output", "sdkd"], "train_memory_mb"]
    assert len(memory) == 3 and memory.min() > 0
    # A pupil holds its adapter too.
    assert own["sdkd", "train_memory_mb", ""] > own["none", "train_memory_mb", ""]


def test_what_is_shown(done: Path) -> None:
    exhibits = {entry["name"]: entry for entry in read_exhibits(done)}
    assert set(exhibits) == {"latency", "training", "steps"}
    assert "U-Net, SDKD: " in exhibits["latency"]["alt"]
    with (done / "steps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    plain = next(r for r in rows if r["student"] == "U-Net" and r["step"] == "no distillation")
    assert plain["against the plain step"] == "1"
    summary = read_json(done / "metrics.json")["unet"]
    assert set(summary) == {"dense", "sdkd-seed0", "steps"}
    assert set(summary["steps"]) == {"dense", "teacher_forward_ms", "none", "sdkd", "output"}


def test_nothing_in_the_output_names_a_path(done: Path) -> None:
    for path in done.rglob("*"):
        if path.is_file():
            assert str(done.parent).encode() not in path.read_bytes()


def test_each_student_has_its_teacher_and_its_arms(tmp_path: Path) -> None:
    for student in ("unet", "mixer"):
        keep(tmp_path / f"distill/sdkd/0-1/{student}/seed0", student)
    found = bench.find(params(), tmp_path / "teach", tmp_path / "distill")
    assert [(s.name, s.folder.name) for s in found] == [
        ("mixer-dense", "alternet"), ("mixer-sdkd-seed0", "seed0"),
        ("unet-dense", "alternet"), ("unet-sdkd-seed0", "seed0"),
    ]  # fmt: skip


def test_an_arm_that_is_not_there_is_an_error_that_says_what_is(tmp_path: Path) -> None:
    keep(tmp_path / "distill/sdkd/0-1/unet/seed0", "unet")
    with pytest.raises(UserError, match="no unet of magic with seed 0; distill made: sdkd"):
        bench.find(params(variants=["magic"]), tmp_path / "teach", tmp_path / "distill")


def test_a_step_of_an_arm_that_was_not_tuned_is_an_error_that_says_what_was(
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    step = {"arms": ["none", "magic"], "batch": 2, "warmup": 1, "repeats": 1}
    message = "train_step.arms names magic; allowed: none, output, sdkd"
    with for_tests(tmp_path, NODE) as job, pytest.raises(UserError, match=message):
        bench.run(params(train_step=step), Inputs(tmp_path, NODE), out, job)
    assert not list(out.iterdir()), "nothing is exported before the mistake is told"


def test_students_are_not_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are trained; a step with clipping would cost more."""

    def never(*words: Any, **more: Any) -> None:
        raise AssertionError("a gradient was clipped")

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", never)
    keep(tmp_path, "unet")
    assert steps.training_step(str(tmp_path), 2)() > 0


def test_a_tolerance_that_is_not_met_stops_the_stage(tmp_path: Path) -> None:
    keep(tmp_path / "net", "unet")
    source = bench.Source("unet", "sdkd", 0, tmp_path / "net")
    with pytest.raises(UserError, match="unet-sdkd-seed0"):
        bench.export(source, params(tolerance=1e-12), tmp_path)


def test_the_steps_train(tmp_path: Path) -> None:
    work = prepare(tmp_path)
    folder = str(work / "distill/sdkd/0-1/unet/seed0")
    more = {"tune": str(work / "tune/sdkd"), "calibrate": str(work / "calibrate")}
    for task in ({}, more):
        step = steps.training_step(folder, 2, **task)
        losses = [step() for _ in range(20)]
        assert losses[-1] < losses[0]
    look = steps.training_step(str(work / "teach/alternet"), 2, forward=True)
    assert look() == look()


@pytest.mark.parametrize("key, value", [("rounds", 0), ("threads", []), ("tolerance", 0.0)])
def test_parameters_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"sdkd.bench.{key}"):
        params(**{key: value})
