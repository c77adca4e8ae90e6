"""Published sets of fields over time: what they look like on disk, and how they are split.

Layouts, N trajectories of T frames:

* fno: one `.mat` file, array `u` of shape (N, H, W, T), MATLAB 7 or 7.3; the paper's Navier-Stokes
  set has N = 1200, 64 x 64 and T = 20 [doc: DW-4; code: FNO's MatReader and scripts]. That it is
  the file with viscosity 1e-5 is [inferred].
* taxibj: TaxiBJ+ as {train,val,test}_{input,output}_data_reshaped.npy, each (N, T, 2, H, W)
  [code: EarthFarseer, dataloader_taxibj_12_12.py]; or TaxiBJ as one `dataset.npz` with X_train,
  Y_train, X_test, Y_test [code: OpenSTL, dataloader_taxibj.py], whose validation windows are the
  last of training, at a distance at which none shares a frame.
* weatherbench: `<variable>/*.nc`, a file a year, in each an array (hours, latitude, longitude)
  [code: OpenSTL, dataloader_weather.py, which takes 37, 1 and 2 years]. A year is a trajectory.
* rayleigh_benard: one `.npy`, `.npz`, `.nc` or `.pt`, either (N, T, C, H, W), or one simulation
  (T, C, H, W), which is cut into `tiles` along its width and into consecutive spans of time, each
  tile of a span a trajectory [shape (2000, 2, 256, 1792), seven tiles and every fourth point: code
  of TF-Net, data_prep.py; the spans: ours, since overlapping windows of all of it, as there, would
  put almost equal frames into training and test].

Of trajectories without a split of their own the first are for training, the last for the test, and
those before the last for validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipelines.sdkd.data import SPLITS
from stages.core import params as core
from stages.core.errors import UserError
from stages.prepare.arrays import read

Array = NDArray[Any]


class Published(core.Params):
    """A published set.

    Attributes:
        layout: see above.
        root: its file or folder, best given relative to the project.
        variables: names of arrays or, for weatherbench, folders, one a channel; none for the only
            one there is.
        every: keep every so many frames.
        coarsen: keep every so many points of height and width.
        tiles: parts of the width, for rayleigh_benard.
    """

    layout: Literal["fno", "taxibj", "weatherbench", "rayleigh_benard"]
    root: str
    variables: list[str]
    every: int = Field(ge=1)
    coarsen: int = Field(ge=1)
    tiles: int = Field(ge=1)


@dataclass(frozen=True)
class Found:
    """What was read: split -> (N, T, C, H, W) float32, and what it is."""

    title: str
    unit: str
    fields: dict[str, Array]


Counts = Mapping[str, int]


def find(root: Path, given: Published, counts: Counts) -> Found:
    """Read a published set.

    Args:
        root: the file or folder.
        counts: trajectories by split; see `Published`.

    Raises:
        UserError: it does not look as it should, has too little in it, or holds gaps.
    """
    found = _LAYOUTS[given.layout](root, given, counts)
    made = {}
    for split, fields in found.fields.items():
        step = given.coarsen
        kept = fields[:, :: given.every, :, ::step, ::step]
        made[split] = np.array(kept, dtype=np.float32, order="C")
        if not np.isfinite(made[split]).all():
            raise UserError(f"'{root}' has gaps or infinite numbers in its {split} part")
    return Found(found.title, found.unit, made)


def _fno(root: Path, given: Published, counts: Counts) -> Found:
    u = read(_only(root, ".mat"), _name(given) or "u")
    if u.ndim != 4:
        raise UserError(f"'{root}': expected u (N, H, W, T), found {u.shape}")
    fields = _split(np.moveaxis(u, 3, 1)[:, :, None], counts, root)
    return Found("Navier-Stokes (FNO)", "vorticity", fields)


def _taxibj(root: Path, given: Published, counts: Counts) -> Found:
    fields = {}
    if (root / "dataset.npz").is_file() or root.suffix == ".npz":
        path = root if root.suffix == ".npz" else root / "dataset.npz"
        whole = {s: _joined(read(path, f"X_{s}"), read(path, f"Y_{s}")) for s in ("train", "test")}
        distance = whole["train"].shape[1] - 1  # windows that share a frame with the next
        # The test windows follow on the training file's last.
        last = max(0, len(whole["train"]) - distance)
        first = max(0, last - counts["valid"])
        fields = {
            "train": whole["train"][: max(0, first - distance)],
            "valid": whole["train"][first:last],
            "test": whole["test"],
        }
        title = "TaxiBJ"
    else:
        title = "TaxiBJ+"
        for split, part in zip(SPLITS, ("train", "val", "test"), strict=True):
            x, y = (read(root / f"{part}_{kind}_data_reshaped.npy") for kind in ("input", "output"))
            fields[split] = _joined(x, y)
    for split, there in fields.items():
        if len(there) < counts[split]:
            raise UserError(
                f"'{root}' has {len(there)} windows for {split}, fewer than the {counts[split]} of "
                "'sdkd.prepare.trajectories' in params.yaml"
            )
        fields[split] = there[: counts[split]]
    return Found(title, "trips as stored", fields)


def _joined(x: Array, y: Array) -> Array:
    """Windows (N, T + T', C, H, W) from their histories and futures."""
    if x.ndim != 5 or y.ndim != 5 or len(x) != len(y) or x.shape[2:] != y.shape[2:]:
        raise UserError(
            f"expected histories and futures (N, T, C, H, W), found {x.shape} and {y.shape}"
        )
    return np.concatenate([x, y], 1)


def _weatherbench(root: Path, given: Published, counts: Counts) -> Found:
    names = given.variables or [_only(root, "").name]
    channels = []
    for name in names:
        years = sorted((root / name).glob("*.nc"))
        needed = sum(counts.values())
        if len(years) < needed:
            raise UserError(
                f"'{root / name}' holds {len(years)} files *.nc, a year each; "
                f"'sdkd.prepare.trajectories' in params.yaml asks for {needed}"
            )
        wanted = [years[place] for place in _places(len(years), counts)]
        arrays = [read(year) for year in wanted]
        shapes = {a.shape[1:] for a in arrays}
        if len(shapes) > 1 or arrays[0].ndim != 3:
            raise UserError(f"'{root / name}': expected (hours, latitude, longitude) in each file")
        length = min(len(a) for a in arrays)  # leap years have a day more
        channels.append(np.stack([a[:length] for a in arrays]))
    if len({c.shape for c in channels}) > 1:
        raise UserError(f"'{root}': {', '.join(names)} differ in hours or grid")
    fields = _split(np.stack(channels, 2), counts, root)
    return Found(f"WeatherBench {' '.join(names)}", "units of the variable", fields)


def _rayleigh_benard(root: Path, given: Published, counts: Counts) -> Found:
    path = root if root.is_file() else _only(root, "")
    names = given.variables or [None]
    arrays = [read(path, name) for name in names]
    fields = arrays[0] if len(arrays) == 1 else np.stack(arrays, -3)
    if fields.ndim == 4:
        spans = sum(counts.values())
        frames, width = fields.shape[0] // spans, fields.shape[3] // given.tiles
        if not frames or not width:
            raise UserError(
                f"'{path}' has {fields.shape[0]} frames of width {fields.shape[3]}, too little for "
                f"{spans} spans (sdkd.prepare.trajectories) and {given.tiles} tiles"
            )
        places = [(s, t) for s in range(spans) for t in range(given.tiles)]
        fields = np.stack([
            fields[s * frames : (s + 1) * frames, :, :, t * width : (t + 1) * width]
            for s, t in places
        ])  # fmt: skip
        counts = {split: count * given.tiles for split, count in counts.items()}
    if fields.ndim != 5:
        raise UserError(f"'{path}': expected (N, T, C, H, W) or (T, C, H, W), found {fields.shape}")
    return Found("Rayleigh-Bénard", "as stored", _split(fields, counts, path))


def _places(there: int, counts: Counts) -> list[int]:
    """Which of `there` trajectories are used, in order: the first, and the last."""
    late = counts["valid"] + counts["test"]
    return [*range(counts["train"]), *range(there - late, there)]


def _split(fields: Array, counts: Counts, root: Path) -> dict[str, Array]:
    needed = sum(counts.values())
    if len(fields) < needed:
        raise UserError(
            f"'{root}' has {len(fields)} trajectories, fewer than the {needed} of "
            "'sdkd.prepare.trajectories' in params.yaml"
        )
    late = len(fields) - counts["test"]
    return {
        "train": fields[: counts["train"]],
        "valid": fields[late - counts["valid"] : late],
        "test": fields[late:],
    }


def _name(given: Published) -> str | None:
    return given.variables[0] if given.variables else None


def _only(root: Path, suffix: str) -> Path:
    """The only entry of a folder with this ending, or `root` itself where that is a file."""
    if root.is_file():
        return root
    entries = root.iterdir() if root.is_dir() else ()
    found = sorted(p for p in entries if p.name.endswith(suffix) and p.name[0] != ".")
    if len(found) != 1:
        what = f"one file *{suffix}" if suffix else "one entry"
        raise UserError(
            f"'{root}': expected {what}, found {', '.join(p.name for p in found[:9]) or 'none'}"
        )
    return found[0]


_LAYOUTS: dict[str, Callable[[Path, Published, Counts], Found]] = {
    "fno": _fno,
    "taxibj": _taxibj,
    "weatherbench": _weatherbench,
    "rayleigh_benard": _rayleigh_benard,
}
