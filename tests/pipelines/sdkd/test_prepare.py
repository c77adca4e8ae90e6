"""The stage: what it leaves, from whose numbers, and the same bytes again."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from pipelines.sdkd import prepare
from pipelines.sdkd.data import Fields
from stages.core.errors import UserError
from stages.core.files import listing, read_json
from stages.core.params import Params
from tests.pipelines.sdkd.prepared import RECIPE, make, parameters


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Only to be read."""
    return make(tmp_path_factory.mktemp("made"))


def test_it_leaves_what_the_others_read(out):
    names = {path.relative_to(out).as_posix() for path in listing(out)}
    assert {"train.safetensors", "valid.safetensors", "test.safetensors", "manifest.json",
            "metrics.json", "exhibits.json", "accuracy.csv", "baselines.csv", "spectra.csv",
            "pictures/samples.svg", "pictures/spectra.dark.svg"} <= names  # fmt: skip
    fields = load_file(out / "train.safetensors")["fields"]
    assert fields.shape == (5, 5, 1, 16, 16) and fields.dtype == torch.float32
    manifest = read_json(out / "manifest.json")
    assert manifest["counts"]["test"] == {"trajectories": 3, "windows": 3}
    assert manifest["recipe"] == RECIPE
    assert set(manifest["checksums"]) == {"train", "valid", "test"}


def test_statistics_come_from_training_trajectories_alone(out):
    fields = Fields.load(out)
    train = load_file(out / "train.safetensors")["fields"].double()
    assert fields.mean == pytest.approx((float(train.mean()),), abs=1e-9)
    assert fields.std == pytest.approx((float(train.std(correction=0)),))
    assert (fields.low, fields.high) == (float(train.min()), float(train.max()))
    whole = torch.cat([fields.trajectories(s) for s in ("train", "valid", "test")])
    assert fields.std != pytest.approx((float(whole.double().std(correction=0)),), rel=1e-4)
    assert read_json(out / "metrics.json")["std"] == {"channel_1": fields.std[0]}


def test_more_test_trajectories_change_nothing_for_training(out, tmp_path):
    other = make(tmp_path, trajectories={"test": 6, "valid": 3})
    assert (other / "train.safetensors").read_bytes() == (out / "train.safetensors").read_bytes()
    manifests = [read_json(folder / "manifest.json") for folder in (out, other)]
    for key in ("mean", "std", "low", "high"):
        assert manifests[0][key] == manifests[1][key]
    short, long = (Fields.load(f).trajectories("test") for f in (out, other))
    assert torch.equal(short, long[:3])


def test_two_runs_give_the_same_bytes(out, tmp_path):
    again = make(tmp_path, batch=3)
    files = [path.relative_to(out) for path in listing(out)]
    assert files == [path.relative_to(again) for path in listing(again)]
    for name in files:
        assert (out / name).read_bytes() == (again / name).read_bytes(), name


def test_persistence_scores_what_it_must(out):
    fields, found = Fields.load(out), read_json(out / "metrics.json")["persistence"]
    test = fields.trajectories("test").double()
    error = test[:, 2:3] - test[:, 3:]
    assert found["mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    assert found["mae"] == pytest.approx(float(error.abs().mean()), rel=1e-5)
    lead = float(error[:, 1].norm() / test[:, 4].norm())
    assert found["relative_l2_by_lead"]["lead_2"] == pytest.approx(lead, rel=1e-5)


def test_accuracy_is_told_for_each_thing_that_could_be_wrong(out):
    found = read_json(out / "metrics.json")["accuracy"]
    assert set(found) == {"precision", "step", "grid", "scheme"}
    last = {key: values["time_2.5"] for key, values in found.items()}
    assert 0 < last["precision"] < last["step"] < last["scheme"] < 0.1
    rows = (out / "accuracy.csv").read_text().splitlines()
    assert rows[0] == "changed,time 0.5,time 1.5,time 2.5" and rows[4].startswith("explicit Euler,")


def test_a_scheme_that_breaks_down_is_shown_so(tmp_path):
    change = {"viscosity": 1e-4, "interval": 4.0}
    out = make(tmp_path, recipe=change)
    assert "not finite" in (out / "accuracy.csv").read_text().splitlines()[4]
    assert "time_20" not in read_json(out / "metrics.json")["accuracy"]["scheme"]


def test_exhibits_are_listed(out):
    listed = json.loads((out / "exhibits.json").read_text())
    assert [e["name"] for e in listed] == ["samples", "spectra", "baselines", "accuracy"]


def test_longer_trajectories_give_more_windows(tmp_path):
    out = make(tmp_path, recipe={"frames": 9}, stride=2)
    assert Fields.load(out).count("train") == 5 * 3
    assert read_json(out / "manifest.json")["counts"]["train"]["windows"] == 15


def test_too_few_frames_are_refused():
    with pytest.raises(UserError, match=r"recipe.frames is 5, fewer than history \+ horizon, 6"):
        parameters(history=4)


def test_parameters_are_closed():
    assert issubclass(prepare.Params, Params)
    with pytest.raises(UserError, match=r"unknown key 'sdkd.prepare.recipe.heun'"):
        parameters(recipe={"heun": 1})
    with pytest.raises(ValidationError):
        prepare.Counts(train=0, valid=1, test=1)


# ------------------------------------------------------------------------- a published set


def published(layout, root, **more):
    return {
        "layout": layout, "root": str(root), "variables": [], "every": 1, "coarsen": 1, "tiles": 1,
        "axes": None,
    } | more  # fmt: skip


def test_a_published_set_is_prepared_alike(tmp_path):
    data = np.random.default_rng(0).normal(3.0, 2.0, (10, 6, 2, 16, 16)).astype("float32")
    np.save(tmp_path / "convection.npy", data)
    given = published("rayleigh_benard", "convection.npy")
    out = make(tmp_path, published=given)
    fields, manifest = Fields.load(out), read_json(out / "manifest.json")
    assert fields.dataset == "Rayleigh-Bénard" and manifest["source"] == "rayleigh_benard"
    assert manifest["root"] == "convection.npy" and "recipe" not in manifest
    np.testing.assert_array_equal(fields.trajectories("test").numpy(), data[-3:])
    assert fields.count("train") == 5 * 2 and fields.channels == 2
    assert "accuracy" not in read_json(out / "metrics.json")


def test_a_published_set_without_a_change_is_refused(tmp_path):
    np.save(tmp_path / "still.npy", np.ones((10, 5, 1, 16, 16), dtype="float32"))
    with pytest.raises(UserError, match="all values of the training trajectories are the same"):
        make(tmp_path, published=published("rayleigh_benard", "still.npy"))


def test_each_channel_has_its_own_moments(tmp_path):
    """Channels may differ in unit: the second is a thousand times the first, and far from 0."""
    data = np.random.default_rng(0).normal(size=(10, 5, 2, 16, 16)).astype("float32")
    data[:, :, 1] = 1000 * data[:, :, 1] + 5e4
    np.save(tmp_path / "two.npy", data)
    fields = Fields.load(make(tmp_path, published=published("rayleigh_benard", "two.npy")))
    train = data[:5].astype("float64")
    assert fields.mean == pytest.approx(train.mean((0, 1, 3, 4)).tolist(), rel=1e-6, abs=1e-9)
    assert fields.std == pytest.approx(train.std((0, 1, 3, 4)).tolist(), rel=1e-6)
    _, x, y = fields.fixed("train")
    whole = torch.cat([x, y], 1).double()
    assert whole.mean((0, 1, 3, 4)).abs().max() < 1e-4
    torch.testing.assert_close(whole.std((0, 1, 3, 4), correction=0), torch.ones(2).double())
    back = fields.raw(fields.fixed("test")[1])
    torch.testing.assert_close(back, torch.from_numpy(data[-3:, :3]), rtol=1e-6, atol=1e-2)


def test_variables_of_different_units_are_scored_alike(tmp_path):
    draw = np.random.default_rng(1).normal
    u, v = (draw(0.0, 2.0, (10, 5, 16, 16)), draw(280.0, 30.0, (10, 5, 16, 16)))
    np.savez(tmp_path / "two.npz", u=u, v=v)
    given = published("rayleigh_benard", "two.npz", variables=["u", "v"])
    out = make(tmp_path, published=given)
    fields, told = Fields.load(out), read_json(out / "manifest.json")["scaled_by"]
    assert told["v"] == pytest.approx({"mean": v[:5].mean(), "std": v[:5].std()}, rel=1e-5)
    assert fields.unit == "standard deviations of each variable"
    assert fields.std == pytest.approx((1.0, 1.0), rel=1e-4) and fields.high < 6
    found = fields.trajectories("test")[:, :, 1].numpy() * told["v"]["std"] + told["v"]["mean"]
    np.testing.assert_allclose(found, v[-3:], rtol=1e-5)


def test_a_channel_without_a_change_is_refused(tmp_path):
    data = np.random.default_rng(0).normal(size=(10, 5, 2, 16, 16)).astype("float32")
    data[:, :, 1] = 7
    np.save(tmp_path / "half.npy", data)
    with pytest.raises(UserError, match="training trajectories are the same in channel 2"):
        make(tmp_path, published=published("rayleigh_benard", "half.npy"))


def test_a_frame_without_a_relative_error_is_refused(tmp_path):
    data = np.random.default_rng(0).normal(size=(10, 5, 1, 16, 16)).astype("float32")
    data[8, 2] = 0  # of the history: nobody forecasts it
    np.save(tmp_path / "empty.npy", data)
    assert make(tmp_path, "history", published=published("rayleigh_benard", "empty.npy")).is_dir()
    data[8, 4] = 0
    np.save(tmp_path / "empty.npy", data)
    with pytest.raises(UserError, match="frame 5 of test trajectory 2 is zero everywhere"):
        make(tmp_path, published=published("rayleigh_benard", "empty.npy"))


def test_short_trajectories_of_a_published_set_are_refused(tmp_path):
    np.save(tmp_path / "short.npy", np.zeros((10, 4, 1, 16, 16), dtype="float32"))
    with pytest.raises(UserError, match="have 4 frames"):
        make(tmp_path, published=published("rayleigh_benard", "short.npy"))
