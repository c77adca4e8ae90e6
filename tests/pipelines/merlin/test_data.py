from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.merlin.data import COMPLETE, Series, datasets
from stages.core.errors import UserError
from tests.pipelines.merlin.prepared import LENGTH, SENSORS, dataset, lay, make, roads


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    lay(project, roads())
    return make(project)


@pytest.fixture
def series(folder: Path) -> Series:
    return Series.load(folder, "roads")


def test_a_window_is_a_cut_of_the_record(series: Series) -> None:
    data, starts = roads(), np.array([3, 90, 250])
    window = series.window(starts)
    for i, start in enumerate(starts):
        past, ahead = data[start : start + 6], data[start + 6 : start + 10]
        assert (window.observed[i].numpy() == (past != 0)).all()
        assert (window.label[i].numpy() == (ahead != 0)).all()
        raw = series.raw(window.x[i]).numpy()
        np.testing.assert_allclose(raw[past != 0], past[past != 0], rtol=1e-5)
        raw = series.raw(window.y[i]).numpy()
        np.testing.assert_allclose(raw[ahead != 0], ahead[ahead != 0], rtol=1e-5)
        assert (window.x[i].numpy()[past == 0] == 0).all()
        assert (window.y[i].numpy()[ahead == 0] == 0).all()


def test_day_and_time_are_whole_numbers_that_use_all_rows(tmp_path: Path) -> None:
    """Trap: stored as a share of the week and cast to an integer, all days would be day 0."""
    lay(tmp_path, np.random.default_rng(0).normal(50, 3, (288 * 8, 2)))
    series = Series.load(make(tmp_path), "roads")
    assert series.tod.dtype == series.dow.dtype == torch.int64
    assert set(series.dow.tolist()) == set(range(7))
    assert set(series.tod.tolist()) == set(range(288)) and series.steps_per_day == 288
    start = datetime(2012, 3, 1)
    for step in (0, 1, 287, 288, 2000):
        time = start + timedelta(minutes=5 * step)
        assert series.dow[step] == time.weekday()
        assert series.tod[step] == (time.hour * 60 + time.minute) // 5
    window = series.window(np.array([280]))
    assert window.tod[0].tolist() == [280, 281, 282, 283, 284, 285]


def test_windows_lie_inside_their_split_and_splits_share_no_step(series: Series) -> None:
    seen: dict[str, set[int]] = {}
    for split, (low, high) in series.bounds.items():
        starts = series.starts(split)
        assert starts.min() >= low and starts.max() + 10 <= high
        seen[split] = {int(s) + i for s in starts for i in range(10)}
    assert not seen["train"] & seen["valid"] and not seen["valid"] & seen["test"]
    assert max(seen["train"]) < min(seen["valid"]) and max(seen["valid"]) < min(seen["test"])


def test_windows_without_any_target_are_left_out(series: Series) -> None:
    assert not (roads()[100:104] != 0).any()
    starts = series.starts("train").tolist()
    assert 94 not in starts and {93, 95} <= set(starts)
    label = series.window(series.starts("train")).label
    assert label.flatten(1).any(1).all()


def test_a_mask_is_cut_like_the_data(series: Series) -> None:
    whole = series.mask("mcar-50")
    starts = np.array([0, 1, 7])
    kept = series.kept("mcar-50", starts)
    assert kept.dtype == torch.bool and kept.shape == (3, 6, SENSORS)
    for i, start in enumerate(starts):
        assert (kept[i] == whole[start : start + 6]).all()
    assert (kept[0, 1:] == kept[1, :-1]).all()  # a step has one fate in all windows
    assert series.kept(COMPLETE, starts).all()
    with pytest.raises(UserError, match="no mask 'mcar-33'; it has block-50"):
        series.kept("mcar-33", starts)


def test_a_mask_hides_history_alone(series: Series) -> None:
    """Targets are complete but for the record's own gaps, whatever the mask."""
    label = series.window(series.starts("test")).label
    assert abs(label.double().mean() - 0.95) < 0.02


def test_each_epoch_is_a_permutation(series: Series) -> None:
    starts, steps = series.starts("train"), series.epoch_steps(16)
    assert steps == len(starts) // 16
    first = np.concatenate([series.batch(0, step, 16) for step in range(1, steps + 1)])
    second = np.concatenate([series.batch(0, steps + step, 16) for step in range(1, steps + 1)])
    assert len(set(first.tolist())) == len(first) == steps * 16
    assert set(first.tolist()) <= set(starts.tolist()) and (first != second).any()


def test_a_batch_depends_on_seed_and_step_alone(series: Series, folder: Path) -> None:
    fresh = Series.load(folder, "roads")
    later = fresh.batch(3, 40, 8)
    fresh.batch(3, 1, 8)
    assert (series.batch(3, 40, 8) == later).all() and (fresh.batch(3, 40, 8) == later).all()
    assert (series.batch(4, 40, 8) != later).any()


def test_the_last_steps_of_training_can_be_all_there_is(tmp_path: Path) -> None:
    data = roads()
    lay(tmp_path, data)
    series = Series.load(make(tmp_path, datasets={"few": dataset(train_steps=60)}), "few")
    assert series.bounds == {"train": (180, 240), "valid": (240, 320), "test": (320, LENGTH)}
    there = data[180:240, 0][data[180:240, 0] != 0]
    assert series.offset[0] == pytest.approx(there.mean(), rel=1e-8)
    assert series.starts("train").min() >= 180


def test_unknown_data_set_is_named(folder: Path) -> None:
    assert datasets(folder) == ["roads"]
    with pytest.raises(UserError, match="no data set 'moon'; there are roads"):
        Series.load(folder, "moon")
