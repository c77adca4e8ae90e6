from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from pipelines.merlin import layouts
from pipelines.merlin.layouts import LAYOUTS
from stages.core.errors import UserError

DATA = np.array([[60.0, 0.0, 55.5], [61.0, 62.0, 56.5]])


def read(folder: Path, name: str) -> layouts.Record:
    return layouts.read(layouts.find(folder, LAYOUTS[name]), LAYOUTS[name])


def as_pandas_writes_it(path: Path, step_minutes: int = 5) -> None:
    """A frame of one type in pandas' fixed form, as METR-LA is published."""
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py, which only METR-LA does")
    start = np.datetime64("2012-03-01T00:00", "ns")
    stamps = start + np.arange(len(DATA)) * np.timedelta64(step_minutes, "m")
    with h5py.File(path, "w") as file:
        group = file.create_group("df")
        names = np.array([b"773869", b"767541", b"767542"])
        group["axis0"] = group["block0_items"] = names
        group["axis1"] = stamps.astype(np.int64)
        group["block0_values"] = DATA


def test_metr_la_as_published(tmp_path: Path) -> None:
    as_pandas_writes_it(tmp_path / "metr-la.h5")
    record = read(tmp_path, "metr_la")
    assert record.start == datetime(2012, 3, 1) and record.step_minutes == 5
    assert record.sensors == (("773869", "mph"), ("767541", "mph"), ("767542", "mph"))
    np.testing.assert_array_equal(record.values, [[60.0, np.nan, 55.5], [61.0, 62.0, 56.5]])


def test_metr_la_with_a_break_in_time_is_refused(tmp_path: Path) -> None:
    as_pandas_writes_it(tmp_path / "METR-LA.h5", step_minutes=10)
    with pytest.raises(UserError, match="every 5 min"):
        read(tmp_path, "metr_la")


def test_without_h5py_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "METR-LA.h5").touch()
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install h5py.*METR-LA\.npy"):
        read(tmp_path, "metr_la")


def test_pems04_is_the_first_of_three_channels(tmp_path: Path) -> None:
    cube = np.stack([DATA, DATA + 100, DATA + 200], axis=-1)
    np.savez(tmp_path / "PEMS04.npz", data=cube)
    record = read(tmp_path, "pems04")
    np.testing.assert_array_equal(record.values[0], [60.0, np.nan, 55.5])
    assert record.start == datetime(2018, 1, 1) and record.sensors[2] == ("0002", "vehicles")


def test_china_aqi_with_time_stamps(tmp_path: Path) -> None:
    (tmp_path / "China-AQI.csv").write_text(
        "time,1001A,1002A\n2015-01-03 22:00:00,60,0\n2015-01-03 23:00:00,,12.5\n"
    )
    record = read(tmp_path, "china_aqi")
    assert record.start == datetime(2015, 1, 3, 22) and record.step_minutes == 60
    assert record.sensors == (("1001A", "AQI"), ("1002A", "AQI"))
    np.testing.assert_array_equal(record.values, [[60.0, 0.0], [np.nan, 12.5]])


@pytest.mark.parametrize("labels", [("0", "1"), ("day one", "day two")])
def test_global_wind_with_numbered_rows(tmp_path: Path, labels: tuple[str, str]) -> None:
    (tmp_path / "Global-Wind.csv").write_text(f",a,b\n{labels[0]},1.5,0\n{labels[1]},2.5,3\n")
    record = read(tmp_path, "global_wind")
    assert record.start is None and record.step_minutes == 1440
    np.testing.assert_array_equal(record.values, [[1.5, 0.0], [2.5, 3.0]])  # a calm is a value


def test_csv_with_a_break_in_time_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Global-Wind.csv").write_text("time,a\n2017-01-01,1\n2017-01-03,2\n2017-01-04,3\n")
    with pytest.raises(UserError, match="every 1440 min"):
        read(tmp_path, "global_wind")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("60,61,55.5\n61,62,56.5\n", r"first row is numbers alone.*Global-Wind\.npy"),
        ("a,b\n60,61\n61.5,62\n", r"first column neither holds times nor counts the rows"),
    ],
)
def test_plain_numbers_that_would_lose_a_row_or_a_column_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "Global-Wind.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read(tmp_path, "global_wind")


def test_sensors_that_are_called_by_numbers_are_names(tmp_path: Path) -> None:
    (tmp_path / "Global-Wind.csv").write_text(",0,1\n0,1.5,0\n1,2.5,3\n")
    record = read(tmp_path, "global_wind")
    assert record.values.shape == (2, 2) and record.sensors[1] == ("1", "m/s")


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_set_is_read_from_a_plain_array(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / f"{LAYOUTS[name].stem}.npy", DATA[..., None])
    record = read(tmp_path, name)
    assert np.isnan(record.values).any() == LAYOUTS[name].zeros
    assert record.values.shape == (2, 3) and record.step_minutes == LAYOUTS[name].step_minutes


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        layouts.find(tmp_path / "away", LAYOUTS["pems04"])
    with pytest.raises(UserError, match=r"none of PEMS04\.h5"):
        layouts.find(tmp_path, LAYOUTS["pems04"])


@pytest.mark.parametrize("content", [np.zeros(4), np.zeros((0, 3)), np.zeros((2, 2, 2, 2))])
def test_arrays_of_another_shape_are_refused(tmp_path: Path, content: np.ndarray) -> None:
    np.save(tmp_path / "PEMS04.npy", content)
    with pytest.raises(UserError, match="expected steps × sensors"):
        read(tmp_path, "pems04")


def test_times_with_a_zone_are_read_on_its_clock(tmp_path: Path) -> None:
    (tmp_path / "China-AQI.csv").write_text(
        "time,1001A\n2015-01-03T22:00:00+08:00,60\n2015-01-03T23:00:00+08:00,12.5\n"
    )
    assert read(tmp_path, "china_aqi").start == datetime(2015, 1, 3, 22)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,a\n2017-01-01,1\nsoon,2\n2017-01-03,3\n", "row 2 of its first column, 'soon'"),
        ("time,a\n13.01.2017,1\n14.01.2017,2\n", r"ISO 8601.*'13\.01\.2017' in row 1"),
        ("time,a\n", "no rows"),
        ("time,a\n2017-01-01,much\n2017-01-02,little\n", "Global-Wind.csv is not Global Wind"),
    ],
)
def test_a_table_that_cannot_be_understood_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "Global-Wind.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read(tmp_path, "global_wind")


def test_archives_and_arrays_under_the_wrong_name_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", DATA)
    np.savez(tmp_path / "b.npz", data=DATA)
    np.savez(tmp_path / "none.npz")
    whole = (tmp_path / "b.npz").read_bytes()
    target = tmp_path / "PEMS04.npz"
    for content, message in (
        ((tmp_path / "a.npy").read_bytes(), r"ends in \.npy"),
        ((tmp_path / "none.npz").read_bytes(), "no array"),
        (whole[: len(whole) // 2], "is not PEMS04 as published"),
    ):
        target.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read(tmp_path, "pems04")
    target.unlink()
    (tmp_path / "PEMS04.npy").write_bytes(whole)
    with pytest.raises(UserError, match=r"ends in \.npz"):
        read(tmp_path, "pems04")
    np.save(tmp_path / "PEMS04.npy", np.array([["a", "b"]]))
    with pytest.raises(UserError, match=r"PEMS04\.npy is not PEMS04"):
        read(tmp_path, "pems04")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "PEMS04.npz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match=r"PEMS04\.npz is not PEMS04 as published"):
        read(tmp_path, "pems04")
