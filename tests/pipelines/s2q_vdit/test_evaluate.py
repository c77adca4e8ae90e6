"""The stage `evaluate`, from models that quantize leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest

from pipelines.s2q_vdit import calibrate, evaluate, quantize
from stages.core import environment
from stages.core import params as core
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.job import Inputs
from stages.core.results import read_scores
from stages.prepare.tables import read_csv
from tests.jobs import for_tests
from tests.pipelines.foundations.video import measured
from tests.pipelines.s2q_vdit import small

HOME, QUANTIZE = "work/foundations/video", "work/s2q_vdit/quantize"
DEPS = (
    f"{HOME}/prepare", f"{HOME}/judge", f"{HOME}/teach/cogvideox", f"{HOME}/gate/cogvideox",
    QUANTIZE,
)  # fmt: skip
NODE = Node("s2q_vdit", "evaluate", None, None, DEPS, (), ("work/s2q_vdit/evaluate",))
VARIANTS: dict[str, dict[str, Any]] = {
    "s2q": {"selection": "sds", "least": 0.5, "base": small.raw_base("full")},
    "rtn": {"selection": None, "least": None, "base": small.raw_base("nearest")},
}
BITS = ["W4A6", "W4A4"]
VALUES: dict[str, Any] = {
    "quantize": {"variants": VARIANTS, "seeds": ["0", "1"], "bits": BITS},
    "evaluate": {
        "seed": 0,
        "batch": 4,
        "forced": {"clips": 3, "steps": 2},
        "free": {"clips": 6, "cells": {"W4A6": {"s2q": 1}}},
        "shown": {"conditions": ["W4A4"], "clips": 1},
    },
}


def made(root: Path) -> Path:
    """A project's work folder before evaluation."""
    measured.foundation(root, "cogvideox")
    found = small.inputs(root / "made", steps=5)
    (root / HOME / "teach").mkdir(parents=True)
    found["foundations/video/teach/cogvideox"].rename(root / HOME / "teach/cogvideox")
    teach = found | {"foundations/video/teach/cogvideox": root / HOME / "teach/cogvideox"}
    pools = root / "work/s2q_vdit/calibrate"
    pools.mkdir(parents=True)
    own = {"prompts": 4, "count": 2, "norm": "spectral", "batch": 4, "seeds": ["0-1"]}
    with for_tests(root / "jobs", Node("s2q_vdit", "calibrate", None, None, (), (), ())) as job:
        calibrate.run(calibrate.Params.model_validate(own), teach, pools, job)  # type: ignore[arg-type]
    inputs = teach | {"calibrate": pools}
    for name, arm in VARIANTS.items():
        values = {
            "bits": BITS, "layers": [{"pattern": "*", "inputs": True}], "branches": "both",
            "text": "apart", "held": 2, "course": small.COURSE | {"epochs": 1}, "count": 2,
            "variant": arm,
        }  # fmt: skip
        for seed in (0, 1):
            node = Node("s2q_vdit", "quantize", name, str(seed), (), (), ())
            out = root / QUANTIZE / name / str(seed)
            with for_tests(root / f"jobs/{name}", node, (seed,)) as job:
                quantize.run(quantize.Params.model_validate(values), inputs, out, job)  # type: ignore[arg-type]
    return root


def parameters(**changes: Any) -> evaluate.Params:
    values = core.merge({"s2q_vdit": VALUES}, {"s2q_vdit": changes})
    return core.build(evaluate.Params, values, "s2q_vdit", "evaluate")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    environment.make_deterministic(1)
    root = made(tmp_path_factory.mktemp("project"))
    out = root / "out"
    out.mkdir()
    with for_tests(root / "job", NODE) as job:
        evaluate.run(parameters(), Inputs(root, NODE), out, job)
    return root, out


@pytest.fixture(scope="module")
def table(finished: tuple[Path, Path]) -> pandas.DataFrame:
    return read_scores(finished[1] / "scores.parquet")


def part(table: pandas.DataFrame, **where: Any) -> pandas.DataFrame:
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def test_every_cell_of_all_seeds_is_judged(table: pandas.DataFrame) -> None:
    assert set(table["backbone"]) == {"cogvideox"}
    found = part(table, metric="sqnr")
    assert len(found) == len(VARIANTS) * len(BITS) * 2 * 3
    means = found.groupby(["variant", "condition"])["value"].mean()
    assert all(means[name, "W4A6"] > means[name, "W4A4"] for name in VARIANTS)
    walked = part(table, metric="drift")[["variant", "condition", "seed"]].drop_duplicates()
    assert walked.to_numpy().tolist() == [["s2q", "W4A6", 0]]


def test_calibration_sets_spread_only_what_sees_them(table: pandas.DataFrame) -> None:
    found = part(table, metric="sqnr_gap").groupby("variant")["value"].mean()
    assert found["rtn"] == 0 and found["s2q"] > 0


def test_what_was_fitted_and_its_bits_are_what_quantize_says(
    finished: tuple[Path, Path], table: pandas.DataFrame
) -> None:
    told = read_json(finished[0] / QUANTIZE / "s2q/1/W4A4/seed1/quantized.json")
    own = part(table, variant="s2q", condition="W4A4", seed=1)
    expected = {
        "trainable": told["learned"],
        "weight_bits": told["bits"]["weights"],
        "input_bits": told["bits"]["inputs"],
        "bits_per_weight": told["bits"]["stored_per_weight"],
        "bits_per_value": told["bits"]["stored_per_value"],
    }
    for metric, value in expected.items():
        assert part(own, metric=metric)["value"].tolist() == [pytest.approx(value)], metric
    for metric, weighing in (("block_error", "plain"), ("block_error_received", "received")):
        rows = part(own, metric=metric).set_index("item")["value"]
        assert rows.to_dict() == {n: b["after"][weighing] for n, b in told["blocks"].items()}


def test_the_table_of_attention_is_the_teacher_s(finished: tuple[Path, Path]) -> None:
    rows = read_csv(finished[1] / "attention.csv")
    told = [
        read_json(finished[0] / QUANTIZE / f"s2q/{seed}/W4A6/seed{seed}/quantized.json")
        for seed in (0, 1)
    ]
    first = [seed["attention"]["net.transformer_blocks.0"]["gini"] for seed in told]
    assert rows[0]["block"] == "transformer_blocks.0" and len(rows) == 2
    assert rows[0]["Gini"] == f"{sum(first) / 2:.3f}"


def test_pictures_are_there(finished: tuple[Path, Path]) -> None:
    names = {entry["name"] for entry in read_json(finished[1] / "exhibits.json")}
    assert names == {
        "quality", "free", "attention", "quality-bits", "strips-w4a4", "sqnr-w4a6", "sqnr-w4a4",
        "drift-w4a6",
    }  # fmt: skip


def test_without_the_method_there_is_nothing_to_tell() -> None:
    with pytest.raises(UserError, match=r"quantize\.variants lacks s2q"):
        parameters(quantize={"variants!": {"rtn": VARIANTS["rtn"]}}, evaluate={
            "free": {"cells!": {}},
        })  # fmt: skip
