"""The paper's four data sets, read from a folder in the form in which they are published.

`root` holds one file a set, named as in the published code's folders (case does not matter):
METR-LA as pandas wrote it to HDF5, PEMS04 as .npz with flow, occupancy and speed, China-AQI and
Global-Wind as .csv with a header, whose first column is a time or numbers the rows. Each set is
also read from such a .csv, or from an .npz or .npy of the same array, (L, N) or (L, N, C); of C
channels the first is forecast.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from pipelines.merlin.datasets import Record
from stages.core.errors import UserError

if TYPE_CHECKING:
    import pandas

ENDINGS = (".h5", ".npz", ".npy", ".csv")


@dataclass(frozen=True)
class Layout:
    """A published set.

    Attributes:
        stem: its file's name without the ending.
        unit: of its sensors, which measure all the same.
        step_minutes: time between rows.
        start: of the first row, where the file does not say; None: not known.
        zeros: a zero is a value that was not recorded, as is usual for detectors of traffic.
    """

    title: str
    stem: str
    unit: str
    step_minutes: int
    start: datetime | None
    zeros: bool


LAYOUTS = {
    "metr_la": Layout("METR-LA", "METR-LA", "mph", 5, datetime(2012, 3, 1), True),
    "pems04": Layout("PEMS04", "PEMS04", "vehicles", 5, datetime(2018, 1, 1), True),
    "china_aqi": Layout("China AQI", "China-AQI", "AQI", 60, None, False),
    "global_wind": Layout("Global Wind", "Global-Wind", "m/s", 24 * 60, None, False),
}


def find(folder: Path, layout: Layout) -> Path:
    """The set's file.

    Raises:
        UserError: the folder or the file is missing.
    """
    if not folder.is_dir():
        raise UserError(f"'{folder}' is not a folder; it should hold {layout.title}")
    there = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_file()}
    for ending in ENDINGS:
        path = there.get((layout.stem + ending).lower())
        if path is not None:
            return path
    wanted = ", ".join(layout.stem + ending for ending in ENDINGS)
    raise UserError(f"'{folder}' holds none of {wanted}: {layout.title} is not there")


def read(path: Path, layout: Layout) -> Record:
    """Read a published set.

    Args:
        path: as `find` gives it.

    Raises:
        UserError: the file is not as expected.
    """
    reader = {".h5": _hdf5, ".npz": _npz, ".npy": _npy, ".csv": _csv}[path.suffix.lower()]
    try:
        values, names, start = reader(path, layout)
        if values.ndim == 3:
            values = values[..., 0]
        if values.ndim != 2 or not values.size:
            raise ValueError(f"it holds an array {values.shape}; expected steps × sensors")
        values = values.astype(np.float64)
    except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile) as error:
        raise UserError(f"{path.name} is not {layout.title} as published: {error}") from None
    gone = ~np.isfinite(values) | ((values == 0) if layout.zeros else False)
    names = names or [f"{i:04d}" for i in range(values.shape[1])]
    return Record(
        np.where(gone, np.nan, values),
        tuple((name, layout.unit) for name in names),
        start or layout.start,
        layout.step_minutes,
    )


Table = tuple[NDArray[Any], list[str], datetime | None]


def _hdf5(path: Path, layout: Layout) -> Table:
    """A table that pandas' `to_hdf` wrote: one group with values, columns and time stamps."""
    try:
        import h5py
    except ImportError:
        raise UserError(
            f"{path.name} is HDF5, for which the package h5py is needed: install it "
            f"(pip install h5py), or save the array as {layout.stem}.npy beside it"
        ) from None
    with h5py.File(path) as file:
        groups = [group for group in file.values() if "block0_values" in group]
        if len(groups) != 1 or "block1_values" in groups[0]:
            raise ValueError("expected one table of one type")
        group = groups[0]
        names = [n.decode() if isinstance(n, bytes) else str(n) for n in group["block0_items"][:]]
        stamps = group["axis1"][:].astype("datetime64[ns]")
        start = _start(stamps, layout)
        return group["block0_values"][:], names, start


def _npz(path: Path, layout: Layout) -> Table:
    file = np.load(path)
    if not isinstance(file, NpzFile):
        raise ValueError("it is a single array; such a file ends in .npy")
    with file:
        if not file.files:
            raise ValueError("it holds no array")
        return file["data" if "data" in file.files else file.files[0]], [], None


def _npy(path: Path, layout: Layout) -> Table:
    array = np.load(path)
    if isinstance(array, NpzFile):
        array.close()
        raise ValueError("it is an archive of arrays; such a file ends in .npz")
    return array, [], None


def _csv(path: Path, layout: Layout) -> Table:
    """First row: names. First column: time stamps, words, or numbers that count the rows.

    A table of plain numbers is refused: its first row would be taken for names, its first column
    for a count, and both would be lost.
    """
    import csv

    import pandas

    plain = f"save an array without names as {layout.stem}.npy"
    with path.open(encoding="utf-8", newline="") as file:
        head = next(csv.reader(file), [])
    if head and all(_is_number(cell) for cell in head):
        raise ValueError(f"its first row is numbers alone, where names are expected; {plain}")
    table = pandas.read_csv(path)
    if table.empty:
        raise ValueError("it has no rows")
    first = table.iloc[:, 0]
    start = None
    if pandas.api.types.is_numeric_dtype(first):
        if not (first.diff().iloc[1:] == 1).all():
            raise ValueError(f"its first column neither holds times nor counts the rows; {plain}")
    elif (times := _times(first)) is not None:
        start = _start(times, layout)
    return table.iloc[:, 1:].to_numpy(np.float64), [str(name) for name in table.columns[1:]], start


def _times(column: pandas.Series) -> NDArray[Any] | None:
    """The column as times, on the clock that it names; None if it holds words.

    Raises:
        ValueError: only some of its rows are times, or they are written in another way.
    """
    import pandas

    # A zone is dropped: rows that are evenly spaced on the clock are what a calendar needs.
    clock = column.astype(str).str.replace(r"(Z|[+-]\d\d:?\d\d)$", "", regex=True)
    stamps = pandas.to_datetime(clock, errors="coerce", format="ISO8601")
    odd = stamps.isna()
    if not odd.any():
        return stamps.to_numpy()
    row = int(odd.to_numpy().argmax())
    if not odd.all():
        raise ValueError(f"row {row + 1} of its first column, '{column[row]}', is not a time")
    if pandas.to_datetime(clock, errors="coerce", format="mixed").notna().any():
        raise ValueError(
            f"its times are not in ISO 8601 (2017-01-31 22:00:00): '{column[row]}' in row {row + 1}"
        )
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _start(stamps: NDArray[Any], layout: Layout) -> datetime:
    """The first of the time stamps, which must follow each other without a break."""
    if (np.diff(stamps) != np.timedelta64(layout.step_minutes, "m")).any():
        raise ValueError(f"its rows do not follow each other every {layout.step_minutes} min")
    seconds = stamps[0].astype("datetime64[s]").astype(np.int64)
    return datetime(1970, 1, 1) + timedelta(seconds=int(seconds))
