"""The bench stage on small nets: what is measured, counted, shown and refused."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import save_file

from pipelines.merlin import bench, steps
from pipelines.merlin.model import build
from stages.bench.training import StepCost
from stages.core import params as core
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.core.job import Inputs
from stages.core.pictures import read_exhibits
from stages.core.results import read_scores
from tests.jobs import for_tests
from tests.pipelines.merlin import made

LOG = logging.getLogger("test")
NODE = Node("merlin", "bench", None, None, ("work/merlin/teach", "work/merlin/distill"), (), ())
FULL = {"hidden": True, "result": True, "contrast": True}
VALUES: dict[str, Any] = {
    "common": {"threads": 1},
    "merlin": {
        "bench": {
            "dataset": "waves", "variants": ["merlin", "mixed_l1"], "seeds": [0],
            "threads": [1, 2], "rounds": 2, "repeats": 2, "warmup": 0, "tolerance": 1.0e-4,
            "train_step": {"batch": 4, "warmup": 1, "repeats": 3, "plain": "mixed_l1"},
        },
    },
}  # fmt: skip


def params(**changes: Any) -> bench.Params:
    values = {**VALUES["merlin"]["bench"], **changes}
    return core.build(bench.Params, {**VALUES, "merlin": {"bench": values}}, "merlin", "bench")


def keep_net(folder: Path, told: dict[str, Any], name: str = "stid") -> None:
    torch.manual_seed(0)
    net = build(made.config(name))
    folder.mkdir(parents=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    write_json(folder / "config.json", net.config)
    write_json(folder / "training.json", told)


def told(**parts: Any) -> dict[str, Any]:
    """A training.json as `distill` leaves it."""
    arm = {"hidden": False, "result": False, "contrast": False, "clean": False, "per_rate": False,
           "input": "zeros", "init": "fresh", **parts}  # fmt: skip
    code = 8 if arm["contrast"] else 0
    return {"arm": arm, "weights": made.WEIGHTS, "code": code, "views": made.VIEWS, "models": {}}


def prepare(root: Path) -> Path:
    work = root / "work/merlin"
    keep_net(work / "teach/waves/stid", {"steps": 1})
    keep_net(work / "distill/merlin/0-2/waves/stid/seed0", told(**FULL))
    keep_net(work / "distill/mixed_l1/0-2/waves/stid/seed0", told())
    machine = {"cpu": "Abacus 3000", "cores": 2, "memory_gb": 8, "gpu": [], "os": "Linux x86_64"}
    write_json(root / "work/device.json", machine)
    return work


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the whole stage."""
    root = tmp_path_factory.mktemp("bench")
    prepare(root)
    out = root / "out"
    out.mkdir()
    with for_tests(root, NODE) as job:
        bench.run(params(), Inputs(root, NODE), out, job)
    return out


def test_every_network_and_thread_count_has_a_row(done: Path) -> None:
    rows = read_json(done / "bench.json")
    assert [(r["variant"], r["threads"]) for r in rows] == [
        ("dense", 1), ("dense", 2), ("merlin", 1), ("merlin", 2), ("mixed_l1", 1), ("mixed_l1", 2),
    ]  # fmt: skip
    for row in rows:
        assert row["shape"] == [1, made.HISTORY, made.SENSORS, 3]
        assert row["rtf"] == pytest.approx(row["latency_ms"] / (1000 * made.HISTORY * 3600))
        assert row["output_error"] < 1e-4 and row["macs"] > 0


def test_what_a_step_costs_is_told_turn_by_turn(done: Path) -> None:
    table = read_scores(done / "scores.parquet")

    def values(metric: str, variant: str) -> list[float]:
        rows = table[(table["metric"] == metric) & (table["variant"] == variant)]
        return rows.sort_values("item")["value"].tolist()

    forward, ratio = values(steps.FORWARD, "dense"), values(steps.RATIO, "merlin")
    plain, mine = values("train_step_ms", "mixed_l1"), values("train_step_ms", "merlin")
    assert len(forward) == len(ratio) == 3 and values(steps.RATIO, "mixed_l1") == []
    for r, m, p, f in zip(ratio, mine, plain, forward, strict=True):
        assert r == pytest.approx(m / (p + f))
    summary = read_json(done / "metrics.json")["stid"]
    assert summary["dense"][steps.FORWARD] == pytest.approx(sorted(forward)[1], abs=1e-3)
    assert summary["merlin-seed0"][steps.RATIO] > 0.5


def test_the_exported_networks_take_the_published_input(done: Path) -> None:
    assert sorted(p.name for p in (done / "models").iterdir()) == [
        "stid-dense.onnx", "stid-merlin-seed0.onnx", "stid-mixed_l1-seed0.onnx",
    ]  # fmt: skip
    model = onnx.load(done / "models/stid-merlin-seed0.onnx")
    names = [entry.name for entry in (*model.graph.input, *model.graph.output)]
    assert names == ["history", "forecast"]


@pytest.mark.parametrize("name", ["tsmixer", "dsformer"])
def test_the_other_backbones_can_be_exported(tmp_path: Path, name: str) -> None:
    keep_net(tmp_path / "net", {"steps": 1}, name)
    source = bench.Source(name, "dense", 0, tmp_path / "net", tmp_path / "net")
    network = bench.export(source, params(), tmp_path / "models")
    assert network.error < 1e-4 and network.macs > 0


def test_what_is_shown(done: Path) -> None:
    picture, table = read_exhibits(done)
    assert "STID, Merlin: 100 % of the MACs" in picture["alt"]
    with (done / table["file"]).open() as file:
        rows = {row["step"]: row for row in csv.DictReader(file)}
    names = ["teacher (one view)", "teacher, forward pass only", "Merlin", "all rates, no teacher"]
    assert list(rows) == names
    both = [steps.OVER_PLAIN, steps.OVER_BOTH, steps.OVER_MEMORY]
    assert all(rows[name][key] == "" for name in names[:2] for key in both)
    mine, plain = rows["Merlin"], rows["all rates, no teacher"]
    assert float(mine[steps.OVER_PLAIN]) == pytest.approx(
        float(mine["ms"]) / float(plain["ms"]), rel=0.01
    )
    summary = read_json(done / "metrics.json")["stid"]
    assert float(mine[steps.OVER_BOTH]) == pytest.approx(
        summary["merlin-seed0"][steps.RATIO], rel=0.01
    )
    assert plain[steps.OVER_PLAIN] == plain[steps.OVER_MEMORY] == "1"
    assert plain[steps.OVER_BOTH] == ""


def test_ratios_are_of_the_same_turn() -> None:
    def cost(*times: float) -> StepCost:
        return StepCost("x", times, 1.0, None)

    own, base = (SimpleNamespace(step=cost(*times)) for times in ((6.0, 20.0), (2.0, 8.0)))
    assert steps.ratios(own, base, cost(1.0, 2.0)) == [2.0, 2.0]  # type: ignore[arg-type]
    assert steps.ratios(base, base, cost(1.0, 2.0)) == []  # type: ignore[arg-type]
    assert steps.ratios(own, None, cost(1.0, 2.0)) == []  # type: ignore[arg-type]


def test_a_missing_arm_is_an_error_that_says_what_there_is(tmp_path: Path) -> None:
    work = prepare(tmp_path)
    with pytest.raises(UserError, match=r"no network of magic with seed 0 for waves; distill made"):
        bench.find(params(variants=["magic"]), work / "teach", work / "distill", LOG)


@pytest.mark.parametrize("parts", [{"per_rate": True}, {"input": "mask"}, {"init": "frozen"}])
def test_arms_that_cannot_be_compared_are_refused(tmp_path: Path, parts: dict[str, Any]) -> None:
    work = prepare(tmp_path)
    keep_net(work / "distill/odd/0-2/waves/stid/seed0", told(**parts))
    with pytest.raises(UserError, match="odd is not one network"):
        bench.find(params(variants=["odd"]), work / "teach", work / "distill", LOG)


@pytest.mark.parametrize("arm", ["teach/waves/stid", "distill/merlin/0-2/waves/stid/seed0"])
def test_the_training_step_trains(tmp_path: Path, arm: str) -> None:
    work = prepare(tmp_path)
    step = steps.training_step(str(work / arm), str(work / "teach/waves/stid"), 8)
    losses = [step() for _ in range(60)]
    assert losses[-1] < losses[0]


def test_a_forward_pass_learns_nothing(tmp_path: Path) -> None:
    teacher = str(prepare(tmp_path) / "teach/waves/stid")
    look = steps.training_step(teacher, teacher, 8, forward=True)
    assert look() == look()
