"""The evaluate stage on tiny untrained nets."""

import json

import numpy as np
import pytest
import torch

from pipelines.sdkd import evaluate
from pipelines.sdkd.data import Fields
from pipelines.sdkd.model import load
from stages.core.files import listing
from stages.core.results import read_scores
from stages.evaluate import fields as measures
from tests.pipelines.sdkd.evaluated import CUTOFF, VARIANTS, made, parameters, part, run

METRICS = {
    "mse", "mae", "relative_l2", "psnr", "ssim", "mse_low", "mse_high", "mse_band_0_3",
    "mse_band_3_12",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A root and its evaluation. Only to be read."""
    root = made(tmp_path_factory.mktemp("finished"))
    return root, run(root, root / "out")


@pytest.fixture
def table(finished):
    return read_scores(finished[1] / "scores.parquet")


def test_every_forecaster_is_scored_on_every_window(table):
    assert set(table["variant"]) == {*VARIANTS, "teacher", "teacher_simvp", "persistence"}
    assert set(table["metric"]) == METRICS
    assert set(table["condition"]) == {"", "lead=1", "lead=2", "lead=3", "lead=4"}
    assert set(table["item"]) == {f"test-000{i}" for i in range(5)}
    assert set(table["dataset"]) == {"waves"}
    own = part(table, variant="sdkd", backbone="mixer", metric="mse", condition="")
    assert sorted(own["seed"]) == [0] * 5 + [1] * 5
    assert len(table) == 9 * 5 * 5 * (2 * (3 + 2 * 2) + 2)  # students: none, sdkd twice, output
    assert part(table, variant="output", backbone="mixer").empty


def test_teachers_and_persistence_stand_beside_each_student(table):
    for variant in ("teacher", "teacher_simvp", "persistence"):
        values = [
            part(table, variant=variant, backbone=student).drop(columns="backbone")
            for student in ("unet", "mixer")
        ]
        assert values[0].reset_index(drop=True).equals(values[1].reset_index(drop=True))
        assert set(values[0]["seed"]) == {0}


def test_units_and_directions(table):
    told = table.drop_duplicates("metric").set_index("metric")[["unit", "direction"]]
    assert tuple(told.loc["mse"]) == ("(vorticity)²", "lower")
    assert tuple(told.loc["mse_high"]) == ("(vorticity)²", "lower")
    assert tuple(told.loc["mae"]) == ("vorticity", "lower")
    assert tuple(told.loc["relative_l2"]) == ("1", "lower")
    assert tuple(told.loc["ssim"]) == ("1", "higher")
    assert tuple(told.loc["psnr"]) == ("dB", "higher")


def test_scores_are_those_of_the_net_in_raw_units(finished, table):
    root, _ = finished
    fields = Fields.load(root / "work/sdkd/prepare")
    items, x, _ = fields.fixed("test")
    truth = fields.trajectories("test")[:, 3:].double()
    net = load(root / "work/sdkd/distill/sdkd/0-1/unet/seed1")
    with torch.no_grad():
        made_ = net(x)[0].double() * 3.7 + 2.0
    own = part(table, variant="sdkd", backbone="unet", seed=1)
    whole = part(own, metric="mse", condition="").set_index("item")["value"]
    expected = (made_ - truth).square().mean((1, 2, 3, 4))
    np.testing.assert_allclose(whole[items], expected, rtol=1e-5)
    lead = part(own, metric="mae", condition="lead=3").set_index("item")["value"]
    np.testing.assert_allclose(
        lead[items], (made_ - truth)[:, 2].abs().mean((1, 2, 3)), rtol=1e-5
    )  # fmt: skip


def test_bands_part_at_the_cutoff_and_add_up(table):
    wide = table.pivot(
        index=["backbone", "variant", "seed", "condition", "item"], columns="metric",
        values="value",
    )  # fmt: skip
    np.testing.assert_allclose(wide["mse_low"] + wide["mse_high"], wide["mse"], rtol=1e-9)
    np.testing.assert_allclose(wide["mse_band_0_3"] + wide["mse_band_3_12"], wide["mse"], rtol=1e-9)
    # A band holds its lower edge, the low band its upper: they differ by the modes at the cutoff.
    assert CUTOFF == 3.0 and bool((wide["mse_low"] > wide["mse_band_0_3"]).all())


def test_persistence_is_the_last_frame(finished, table):
    fields = Fields.load(finished[0] / "work/sdkd/prepare")
    test = fields.trajectories("test").double()
    expected = (test[:, 3:] - test[:, 2:3]).square().mean((0, 2, 3, 4))
    own = part(table, variant="persistence", backbone="unet", metric="mse")
    for lead in range(4):
        mean = part(own, condition=f"lead={lead + 1}")["value"].mean()
        assert mean == pytest.approx(float(expected[lead]), rel=1e-5)


def test_files_and_pictures(finished):
    _, out = finished
    names = {path.relative_to(out).as_posix() for path in listing(out)}
    arms = {f"unet-{v}" for v in (*VARIANTS, "teacher", "teacher_simvp", "persistence")}
    arms |= {f"mixer-{v}" for v in ("none", "sdkd", "teacher", "teacher_simvp", "persistence")}
    assert {n for n in names if n.startswith("curves/")} == {
        f"curves/{kind}-{arm}.csv" for kind in ("lead", "spectrum") for arm in arms
    }
    listed = json.loads((out / "exhibits.json").read_text())
    assert {e["name"] for e in listed} == {"forecasts", "search"} | {
        f"{kind}-{student}"
        for kind in ("comparison", "leads", "bands", "spectra")
        for student in ("unet", "mixer")
    }
    for entry in [e for e in listed if e["kind"] == "picture"]:
        assert len(entry["alt"]) > 40 and "nan" not in entry["alt"]
    assert {"scores.parquet", "metrics.json", "exhibits.json"} <= names


def test_curves_hold_means_over_windows_and_seeds(finished, table):
    import pandas

    curve = pandas.read_csv(finished[1] / "curves/lead-unet-sdkd.csv")
    assert list(curve.columns) == ["lead", "mse", "mae", "relative_l2", "ssim"]
    own = part(table, variant="sdkd", backbone="unet", metric="relative_l2", condition="lead=2")
    assert curve["relative_l2"][1] == pytest.approx(own["value"].mean(), rel=1e-6)


def test_spectra_add_up_to_mean_squares(finished, table):
    import pandas

    curve = pandas.read_csv(finished[1] / "curves/spectrum-unet-none.csv")
    test = Fields.load(finished[0] / "work/sdkd/prepare").trajectories("test").double()
    assert curve["truth"].sum() == pytest.approx(float(test[:, -1].square().mean()), rel=1e-5)
    own = part(table, variant="none", backbone="unet", metric="mse", condition="lead=4")
    assert curve["error"].sum() == pytest.approx(own["value"].mean(), rel=1e-5)


def test_again_after_a_kill_the_same_bytes(finished, tmp_path, monkeypatch):
    """A killed stage scores what is left, and ends with the bytes of an undisturbed one."""
    _, undisturbed = finished
    root = made(tmp_path)
    done, original = [], measures.scores

    def killed(*how):
        if len(done) == 6:
            raise KeyboardInterrupt
        done.append(how)
        return original(*how)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(measures, "scores", killed)
        run(root, root / "killed")
    again = []
    with monkeypatch.context() as patch:
        patch.setattr(measures, "scores", lambda *how: again.append(how) or original(*how))
        out = run(root, root / "again")
    assert len(again) == 3 + 5 * 2 - 6
    files = [path.relative_to(undisturbed) for path in listing(undisturbed)]
    assert files == [path.relative_to(out) for path in listing(out)]
    for name in files:
        assert (undisturbed / name).read_bytes() == (out / name).read_bytes(), name


def test_batches_decide_the_speed_alone(finished, table, tmp_path):
    other = read_scores(
        run(finished[0], tmp_path / "out", parameters(evaluate={"batch_size": 5}))
        / "scores.parquet"
    )  # fmt: skip
    np.testing.assert_allclose(other["value"], table["value"], rtol=1e-4, atol=1e-6)


def test_nets_are_asked_in_evaluation_mode(finished, monkeypatch):
    modes = []
    original = evaluate.load

    def watched(folder):
        net = original(folder)
        modes.append(any(m.training for m in net.modules()))
        return net

    monkeypatch.setattr(evaluate, "load", watched)
    root, _ = finished
    params = parameters()
    inputs = {n: root / "work/sdkd" / n for n in ("prepare", "teach", "calibrate", "distill")}
    fields = Fields.load(inputs["prepare"])

    class Here:
        device = torch.device("cpu")

    for arm in evaluate.forecasters(params, inputs, fields, Here()):
        arm.forecast(fields.fixed("test")[1][:1])
    assert modes == [False] * 12
