"""The stage `evaluate`, from models that quantize leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
from safetensors.torch import save

from pipelines.foundations.video import measure_study
from pipelines.q_vdit import evaluate, quantize
from pipelines.q_vdit.samples import SALIENCE
from pipelines.q_vdit.student import TRAINING
from stages.core import environment
from stages.core import params as core
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import listing, read_json, write_bytes, write_json
from stages.core.job import Inputs
from stages.core.results import read_scores
from stages.prepare.tables import read_csv
from tests.jobs import for_tests
from tests.pipelines.foundations.video import measured
from tests.pipelines.q_vdit import small
from tests.pipelines.q_vdit.small import TERM, TOKEN

HOME = "work/foundations/video"
TEACH, CALIBRATE, QUANTIZE = f"{HOME}/teach/latte", "work/q_vdit/calibrate", "work/q_vdit/quantize"
DEPS = (f"{HOME}/prepare", f"{HOME}/judge", TEACH, f"{HOME}/gate/latte", CALIBRATE, QUANTIZE)
NODE = Node("q_vdit", "evaluate", None, None, DEPS, (), ("work/q_vdit/evaluate",))
VARIANTS: dict[str, dict[str, Any]] = {"q_vdit": TOKEN | {"temporal": TERM}, "rtn": {}}
CELLS = ["W3A6-mix", "W8A8-all"]
VALUES: dict[str, Any] = {
    "quantize": {"variants": VARIANTS, "seeds": ["0-1"], "cells": CELLS},
    "evaluate": {
        "seed": 0,
        "batch": 4,
        "forced": {"clips": 3, "steps": 2},
        "free": {"clips": 6, "cells": {"W3A6-mix": {"q_vdit": 2, "rtn": 1}}},
        "shown": {"conditions": ["W3A6-mix", "W8A8-all"], "clips": 2},
    },
}


def made(root: Path) -> Path:
    """A project's work folder before evaluation."""
    measured.foundation(root, "latte")
    small.foundation(root)
    told = {}
    for seed in (0, 1):
        start, folder = small.ground(seed=seed), root / CALIBRATE / f"seed{seed}"
        start.samples.save(folder)
        tables = {name: table.contiguous() for name, table in start.salience.items()}
        write_bytes(folder / SALIENCE, save(tables))
        told[f"seed{seed}"] = {"outliers": dict.fromkeys(start.salience, 2.0 + seed)}
    write_json(root / CALIBRATE / "calibration.json", {"seeds": told})
    own = {"cells": CELLS, "held": 2, "momentum": 0.95, "rates": small.RATES, "batch": 4}
    for name, arm in VARIANTS.items():
        node = Node("q_vdit", "quantize", name, "0-1", (TEACH, CALIBRATE), (), ())
        values = {**own, "train": small.TRAIN | {"steps": 2}, "variant": arm}
        with for_tests(root / "jobs" / name, node, (0, 1)) as job:
            out = root / QUANTIZE / name / "0-1"
            params = quantize.Params.model_validate(values)
            quantize.run(params, Inputs(root, node), out, job)
    return root


def parameters(**changes: Any) -> evaluate.Params:
    values = core.merge({"q_vdit": VALUES}, {"q_vdit": changes})
    return core.build(evaluate.Params, values, "q_vdit", "evaluate")


def run(root: Path, out: Path, params: evaluate.Params | None = None) -> Path:
    out.mkdir()
    environment.make_deterministic(1)
    with for_tests(out.parent / f"job-{out.name}", NODE) as job:
        evaluate.run(params or parameters(), Inputs(root, NODE), out, job)
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = made(tmp_path_factory.mktemp("project"))
    return root, run(root, root / "out")


@pytest.fixture(scope="module")
def table(finished: tuple[Path, Path]) -> pandas.DataFrame:
    return read_scores(finished[1] / "scores.parquet")


def part(table: pandas.DataFrame, **where: Any) -> pandas.DataFrame:
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def test_every_cell_is_judged_step_by_step(table: pandas.DataFrame) -> None:
    assert set(table["backbone"]) == {"latte"} and set(table["dataset"]) == {"bars"}
    found = part(table, metric="sqnr")
    assert len(found) == len(VARIANTS) * len(CELLS) * 2 * 3
    assert len(part(table, metric="sqnr_gap")) == len(found)
    means = found.groupby(["variant", "condition"])["value"].mean()
    assert all(means[v, "W8A8-all"] > means[v, "W3A6-mix"] + 10 for v in VARIANTS)


def test_headline_cells_alone_are_judged_by_their_clips(table: pandas.DataFrame) -> None:
    found = part(table, metric="agreement")
    found = found[found["condition"] != ""]
    cells = found.groupby(["variant", "condition", "seed"]).size().to_dict()
    assert cells == {
        ("q_vdit", "W3A6-mix", 0): 6, ("q_vdit", "W3A6-mix", 1): 6, ("rtn", "W3A6-mix", 0): 6,
    }  # fmt: skip
    assert set(part(table, metric="frechet_real")["variant"]) == {
        "real", "full", "full_again", *VARIANTS,
    }  # fmt: skip


def test_what_an_arm_learned_with_and_its_bits_are_what_quantize_says(
    finished: tuple[Path, Path], table: pandas.DataFrame
) -> None:
    for variant, condition in (("q_vdit", "W3A6-mix"), ("rtn", "W8A8-all")):
        folder = finished[0] / QUANTIZE / variant / "0-1" / condition / "seed1"
        told = read_json(folder / TRAINING)
        own = part(table, variant=variant, condition=condition, seed=1)
        expected = {
            "trainable": told["trainable"]["all"],
            "updates": told["updates"],
            "output_error": told["after"]["error"],
            "temporal_term": told["after"]["temporal"],
            "weight_bits": told["bits"]["weights"],
            "input_bits": told["bits"]["inputs"],
            "bits_per_weight": told["bits"]["stored"]["per_weight"],
            "bits_per_value": told["bits"]["stored"]["per_value"],
        }
        for metric, value in expected.items():
            assert part(own, metric=metric)["value"].tolist() == [pytest.approx(value)], metric


def test_files_curves_and_pictures(finished: tuple[Path, Path]) -> None:
    out = finished[1]
    names = {path.relative_to(out).as_posix() for path in listing(out)}
    assert {"scores.parquet", "metrics.json", "quality.csv", "free.csv", "outliers.csv"} <= names
    curve = (out / "curves/sqnr/W3A6-mix.csv").read_text().splitlines()
    assert curve[0] == "step,time,q_vdit,rtn" and len(curve) == 3
    drift = (out / "curves/drift/W3A6-mix.csv").read_text().splitlines()
    assert drift[0] == "step,q_vdit,rtn" and len(drift) == 7
    assert drift[1] == "1,0,0" and float(drift[-1].split(",")[1]) > 0
    assert "curves/drift/W8A8-all.csv" not in names
    listed = json.loads((out / "exhibits.json").read_text())
    assert {entry["name"] for entry in listed} == {
        "quality", "free", "outliers", "quality-bits", "strips-w3a6-mix", "strips-w8a8-all",
        "sqnr-w3a6-mix", "sqnr-w8a8-all", "drift-w3a6-mix",
    }  # fmt: skip
    assert all(len(entry["alt"]) > 20 for entry in listed if entry["kind"] == "picture")
    for entry in listed:
        if entry["kind"] == "picture":
            assert (out / entry["file"].replace(".svg", ".dark.svg")).is_file()
    assert "2.50" in (out / "outliers.csv").read_text()


def test_tables_and_sums_show_the_mean_of_the_scores(
    finished: tuple[Path, Path], table: pandas.DataFrame
) -> None:
    own = part(table, variant="q_vdit", condition="W3A6-mix")
    rows = {(row["bits"], row["arm"]): row for row in read_csv(finished[1] / "quality.csv")}
    shown = rows["W3A6-mix", "Q-VDiT"]["SQNR in dB"]
    assert shown == f"{part(own, metric='sqnr')['value'].mean():.2f}"
    free = {row["arm"]: row for row in read_csv(finished[1] / "free.csv")}
    assert list(free) == [
        "full precision", "full precision, other noise", "real clips", "Q-VDiT",
        "rounding to the nearest",
    ]  # fmt: skip
    shown = free["Q-VDiT"]["agreement"]
    assert shown == f"{part(own, metric='agreement')['value'].mean():.3g}"
    assert free["Q-VDiT"]["seeds"] == str(part(own, metric="agreement")["seed"].nunique())
    assert free["real clips"]["seeds"] == "" and "flicker_change" not in free["Q-VDiT"]
    flicker = part(own, metric="flicker_error")["value"].mean()
    assert free["Q-VDiT"]["flicker_error"] == f"{flicker:.3g}"
    assert free["real clips"]["drift"] == "" and free["real clips"]["bits"] == "32"
    metrics = read_json(finished[1] / "metrics.json")
    drift = part(own, metric="drift")["value"].mean()
    assert metrics["q_vdit"]["W3A6-mix"]["drift"] == pytest.approx(drift, abs=1e-5)
    assert metrics["real"]["frechet_real"] > 0


def test_again_after_a_kill_the_same_bytes(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed stage asks the models that are left, and ends with the same bytes."""
    root, undisturbed = finished
    done: list[str] = []
    original = measure_study.ask

    def killed(*given: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append("model")
        return original(*given)

    (tmp_path / "out").mkdir()
    environment.make_deterministic(1)
    with for_tests(tmp_path / "job", NODE) as job:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(measure_study, "ask", killed)
            evaluate.run(parameters(), Inputs(root, NODE), tmp_path / "out", job)
        with monkeypatch.context() as patch:
            patch.setattr(
                measure_study, "ask", lambda *given: (done.append("again"), original(*given))[1]
            )
            evaluate.run(parameters(), Inputs(root, NODE), tmp_path / "out", job)
    assert done.count("model") == 3 and done.count("again") == len(VARIANTS) * len(CELLS) * 2 - 3
    files = [path.relative_to(undisturbed) for path in listing(undisturbed)]
    assert files == [path.relative_to(tmp_path / "out") for path in listing(tmp_path / "out")]
    for name in files:
        assert (undisturbed / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("harm", "word"),
    [("old/0-1", "holds old"), ("rtn/2", "holds 2"), ("rtn/0-1/W2A2-all", "holds W2A2-all")],
)
def test_models_that_params_do_not_name_are_refused(
    finished: tuple[Path, Path], tmp_path: Path, harm: str, word: str
) -> None:
    root = tmp_path / "project"
    leave = shutil.ignore_patterns("out", "jobs", "job-out")
    shutil.copytree(finished[0], root, ignore=leave)
    (root / QUANTIZE / harm).mkdir(parents=True)
    with pytest.raises(UserError, match=word):
        run(root, root / "out")
