import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipelines.merlin import evaluate, summary
from pipelines.merlin.data import Series
from pipelines.merlin.impute import inputs as filled
from pipelines.merlin.model import load
from stages.core.errors import UserError
from stages.core.files import listing
from stages.core.results import read_scores
from tests.pipelines.merlin.evaluated import (
    MASKS,
    VARIANTS,
    VIEWS,
    made,
    net,
    parameters,
    part,
    run,
)
from tests.pipelines.merlin.prepared import lay, make, roads


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = made(tmp_path_factory.mktemp("project"))
    return root, run(root, root / "out")


@pytest.fixture(scope="module")
def table(finished):
    return read_scores(finished[1] / "scores.parquet")


def test_every_arm_is_scored_under_every_mask(table):
    assert set(table["variant"]) == {*VARIANTS, "dense", "persistence"}
    for metric, direction, unit in (
        ("mae", "lower", "mph"),
        ("rmse", "lower", "mph"),
        ("mape", "lower", "%"),
    ):
        rows = part(table, metric=metric)
        rows = rows[~rows["condition"].str.contains("h=")]
        assert set(rows["condition"]) == {"complete", *MASKS}
        assert set(rows["direction"]) == {direction} and set(rows["unit"]) == {unit}
        for (variant, _), own in rows.groupby(["variant", "condition"]):
            seeds = [0] if variant in ("dense", "persistence") else [0, 1]
            assert sorted(zip(own["seed"], own["item"], strict=True)) == [
                (seed, f"block-{i:02d}") for seed in seeds for i in range(4)
            ]


def test_rates_and_kinds_that_no_training_saw_are_scored(table):
    """Trap: the published test has the four rates of training alone."""
    unseen = set(part(table, metric="mae")["condition"]) - {"complete", *VIEWS}
    assert {"mcar-60", "changing", "block-50"} <= unseen


def test_the_error_is_that_of_the_net(finished, table):
    root, _ = finished
    series = Series.load(root / "work/merlin/prepare", "roads")
    starts = series.starts("test")[::2]
    model = load(root / "work/merlin/distill/mask_channel/0-1/roads/stid/seed1")
    window = series.window(starts)
    kept = series.kept("mcar-75", starts)
    with torch.no_grad():
        y = model(filled("mask", window, kept), window.tod, window.dow)[0]
    gap = (series.raw(y) - series.raw(window.y)).abs().numpy()
    label = window.label.numpy()
    rows = part(table, variant="mask_channel", seed=1, condition="mcar-75", metric="mae")
    own = rows.sort_values("item")["value"].to_numpy()
    for value, group in zip(own, np.array_split(np.arange(len(starts)), 4), strict=True):
        assert value == pytest.approx(gap[group][label[group]].mean(), rel=1e-6)


def test_blocks_are_consecutive_windows(finished):
    root, _ = finished
    test = evaluate.TestSet(Series.load(root / "work/merlin/prepare", "roads"), parameters())
    assert np.concatenate(test.groups).tolist() == list(range(len(test.starts)))
    assert (np.diff(test.starts) >= 2).all() and test.starts[0] >= 320
    sizes = [len(group) for group in test.groups]
    assert max(sizes) - min(sizes) <= 1


def test_steps_ahead_stand_for_headline_arms_alone(table):
    rows = table[table["condition"].str.contains("h=")]
    assert set(rows["variant"]) == {"merlin"} and set(rows["metric"]) == {"mae", "rmse", "mape"}
    assert set(rows[rows["metric"] == "mape"]["unit"]) == {"%"}
    whole = part(table, variant="merlin", seed=0, item="block-01", condition="mcar-75")
    steps = part(rows, seed=0, item="block-01", condition="mcar-75|h=1")
    assert len(steps) == 3 and len(whole) == 6
    assert set(rows["condition"]) == {f"{m}|h={h}" for m in ("complete", *MASKS) for h in (1, 4)}


def test_one_model_a_rate_answers_for_its_rate(finished, table):
    root, _ = finished
    folder = root / "work/merlin/distill/per_rate/0-1/roads/stid/seed0"
    series = Series.load(root / "work/merlin/prepare", "roads")
    starts = series.starts("test")[::2]
    window = series.window(starts)
    for key, file in (("mcar-90", "mcar-90"), ("mcar-60", "mcar-50"), ("complete", "mcar-25")):
        model = load(folder, f"model-{file}.safetensors")
        with torch.no_grad():
            x = filled("zeros", window, series.kept(key, starts))
            y = model(x, window.tod, window.dow)[0]
        gap = (series.raw(y) - series.raw(window.y)).abs()[window.label].mean()
        rows = part(table, variant="per_rate", seed=0, condition=key, metric="mae")
        assert rows["value"].mean() == pytest.approx(float(gap), rel=0.02)


def test_persistence_repeats_what_was_last_seen(finished, table):
    root, _ = finished
    series = Series.load(root / "work/merlin/prepare", "roads")
    window = series.window(np.array([330]))
    kept = torch.ones_like(window.observed)
    kept[0, -1, 0] = False
    kept[0, :, 2] = False
    y, _ = evaluate.persistence(series)(window, kept, "mcar-25")
    assert (y[0, :, 0] == window.x[0, -2, 0]).all() and (y[0, :, 2] == 0).all()
    assert (y[0, :, 1] == window.x[0, -1, 1]).all()
    rows = part(table, variant="persistence", metric="mae")
    means = rows.groupby("condition")["value"].mean()
    assert means["complete"] < means["mcar-90"]


def test_where_nothing_is_left_persistence_has_the_mean_and_not_the_minimum(tmp_path):
    """With `minmax` a 0 is the least value of the series."""
    lay(tmp_path, roads())
    make(tmp_path, scale="minmax")
    series = Series.load(tmp_path / "work/merlin/prepare", "roads")
    window = series.window(np.array([330]))
    y, _ = evaluate.persistence(series)(window, torch.zeros_like(window.observed), "mcar-90")
    means = [sensor["mean"] for sensor in series.manifest["sensors"]]
    assert series.raw(y)[0, -1].tolist() == pytest.approx(means, rel=1e-5)


def test_files_curves_and_pictures(finished):
    _, out = finished
    names = {path.relative_to(out).as_posix() for path in listing(out)}
    assert {"scores.parquet", "metrics.json", "errors-roads-stid.csv"} <= names
    curve = (out / "curves/rates-roads-stid-merlin.csv").read_text().splitlines()
    assert curve[0] == "hidden,mae,low,high,similarity,similarity_other"
    assert [line.split(",")[0] for line in curve[1:]] == ["0", "25", "50", "60", "75", "90"]
    assert curve[1].split(",")[-2] == "1" and float(curve[1].split(",")[-1]) < 1
    plain = (out / "curves/rates-roads-stid-per_rate.csv").read_text().splitlines()
    assert plain[0] == "hidden,mae,low,high"
    listed = json.loads((out / "exhibits.json").read_text())
    assert {entry["name"] for entry in listed} == {
        "errors-roads-stid", "rates-roads-stid", "versus-roads-stid", "similarity-roads-stid",
        "steps-ahead", "likeness", "forecast",
    }  # fmt: skip
    alt = next(entry["alt"] for entry in listed if entry["name"] == "forecast")
    assert "mcar-75" in alt and "teacher" in alt and "mph" in alt
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["roads"]["stid"]["merlin"]) == {
        "mae", "rmse", "mape", "similarity", "similarity_other", "similarity_gap",
    }  # fmt: skip


def test_a_table_shows_the_mean_of_the_scores(finished, table):
    lines = (finished[1] / "errors-roads-stid.csv").read_text().splitlines()
    head, merlin = lines[0].split(","), next(x for x in lines if x.startswith("Merlin,"))
    assert head == ["arm", "complete", *MASKS]
    value = part(table, variant="merlin", condition="changing", metric="mae")["value"].mean()
    assert merlin.split(",")[head.index("changing")] == f"{value:.4f}"


def test_steps_ahead_are_shown_by_set_and_arm(finished, table):
    lines = (finished[1] / "steps-ahead.csv").read_text().splitlines()
    head, merlin = lines[0].split(","), next(x.split(",") for x in lines if ",Merlin," in x)
    assert head[3:] == [f"{m}: step {h}" for m in ("complete", "trained rates") for h in (1, 4)]
    conditions = [f"{view}|h=4" for view in VIEWS]
    rows = table[table["condition"].isin(conditions)]
    value = part(rows, variant="merlin", metric="mae")["value"].mean()
    assert merlin[head.index("trained rates: step 4")] == f"{value:.4f}"


def test_excess_over_the_control_is_paired_by_window_block():
    control = np.array([[1.0, 2.0, 4.0, 8.0], [2.0, 4.0, 8.0, 16.0]])
    found = summary.against(1.1 * control, control)
    assert found.value == pytest.approx(10)
    assert found.low == pytest.approx(10) and found.high == pytest.approx(10)


def test_blocks_without_a_seed_are_an_error(table):
    broken = table.drop(part(table, variant="merlin", metric="mae", condition="complete").index[:1])
    with pytest.raises(ValueError, match="incomplete"):
        summary.blocks(broken)


def test_again_after_a_kill_the_same_bytes(finished, tmp_path, monkeypatch):
    """A killed stage scores what is left, and ends with the bytes of an undisturbed one."""
    _, undisturbed = finished
    root = made(tmp_path)
    done, original = [], evaluate.TestSet.rows

    def killed(test, net, *rest):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(net.name)
        return original(test, net, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate.TestSet, "rows", killed)
        run(root, root / "killed")
    again: list[str] = []

    def counted(test, net, *rest):
        again.append(net.name)
        return original(test, net, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate.TestSet, "rows", counted)
        out = run(root, root / "again")
    nets = 2 * len(VARIANTS) + 1
    scored = {name for name in (*done, *again) if not name.startswith("persistence")}
    assert len(scored) == nets and len(done) + len(again) == nets + 2  # persistence, each time
    files = {path.relative_to(undisturbed) for path in listing(undisturbed)}
    assert files == {path.relative_to(out) for path in listing(out)}
    for name in sorted(files):
        assert (undisturbed / name).read_bytes() == (out / name).read_bytes(), name


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        ("distill/old/0-1/roads/stid/seed0", "holds old"),
        ("distill/merlin/2-3/roads/stid/seed2", "holds 2-3"),
        ("distill/merlin/0-1/moon/stid/seed0", "holds moon"),
        ("distill/merlin/0-1/roads/tsmixer/seed0", "holds tsmixer"),
    ],
)
def test_nets_that_params_do_not_name_are_refused(finished, tmp_path, harm, word):
    root = tmp_path / "project"
    shutil.copytree(finished[0], root, ignore=shutil.ignore_patterns("out", ".resume"))
    net(root / "work/merlin" / harm, 0)
    with pytest.raises(UserError, match=word):
        run(root, root / "out")


def test_a_missing_net_is_named(finished, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(finished[0], root, ignore=shutil.ignore_patterns("out", ".resume"))
    shutil.rmtree(root / "work/merlin/distill/merlin/0-1/roads/stid/seed1")
    with pytest.raises(UserError, match=r"merlin/0-1/roads/stid/seed1 has no training\.json"):
        run(root, root / "out")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"blocks": 90}, r"only \d+ test windows"),
        ({"horizons": [5]}, "forecast 4 steps ahead"),
        ({"masks": ["mcar-33"]}, "no mask 'mcar-33'"),
        ({"example": {"sensor": "none"}}, "example.sensor' is 'none'; roads has 0000"),
        ({"example": {"window": 999}}, "example.window' is 999; allowed: below"),
        ({"example": {"sensor": "0000"}}, "in which 0000 has gaps"),
        ({"example": {"backbone": "moon"}}, "not trained on roads with moon"),
        (
            {"example": {"dataset": "moon"}},
            "example.dataset' is 'moon'; the arms are trained on roads",
        ),
        ({"example": {"masks": ["mcar-33"]}}, "no mask 'mcar-33'"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(finished, tmp_path, change, word):
    root = finished[0]
    if "sensor" in change.get("example", {}) and change["example"]["sensor"] == "0000":
        series = Series.load(root / "work/merlin/prepare", "roads")
        gone = [i for i, s in enumerate(series.starts("test"))
                if not series.observed[s : s + 10, 0].all()]  # fmt: skip
        change = {"example": {"sensor": "0000", "window": gone[0]}}
    with pytest.raises(UserError, match=word):
        run(root, tmp_path / "out", parameters(evaluate=change))


def test_unknown_variants_are_refused():
    with pytest.raises((ValidationError, UserError), match="by_horizon names moon"):
        parameters(evaluate={"by_horizon": ["moon"]})
