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
* rayleigh_benard: one `.npy`, `.npz`, `.nc` or `.pt`, see `convection.py`.

Of trajectories without a split of their own the first are for training, the last for the test, and
those before the last for validation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.sdkd.convection import rayleigh_benard
from pipelines.sdkd.data import SPLITS
from pipelines.sdkd.published import Array, Counts, Found, Published, only, parted, places
from stages.core.errors import UserError
from stages.prepare.arrays import read


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
    u = read(only(root, ".mat"), _name(given) or "u")
    if u.ndim != 4:
        raise UserError(f"'{root}': expected u (N, H, W, T), found {u.shape}")
    fields = parted(np.moveaxis(u, 3, 1)[:, :, None], counts, root)
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
    names = given.variables or [only(root, "").name]
    channels = []
    for name in names:
        years = sorted((root / name).glob("*.nc"))
        needed = sum(counts.values())
        if len(years) < needed:
            raise UserError(
                f"'{root / name}' holds {len(years)} files *.nc, a year each; "
                f"'sdkd.prepare.trajectories' in params.yaml asks for {needed}"
            )
        wanted = [years[place] for place in places(len(years), counts)]
        arrays = [read(year) for year in wanted]
        shapes = {a.shape[1:] for a in arrays}
        if len(shapes) > 1 or arrays[0].ndim != 3:
            raise UserError(f"'{root / name}': expected (hours, latitude, longitude) in each file")
        length = min(len(a) for a in arrays)  # leap years have a day more
        channels.append(np.stack([a[:length] for a in arrays]))
    if len({c.shape for c in channels}) > 1:
        raise UserError(f"'{root}': {', '.join(names)} differ in hours or grid")
    fields = parted(np.stack(channels, 2), counts, root)
    return Found(f"WeatherBench {' '.join(names)}", "units of the variable", fields)


def _name(given: Published) -> str | None:
    return given.variables[0] if given.variables else None


_LAYOUTS: dict[str, Callable[[Path, Published, Counts], Found]] = {
    "fno": _fno,
    "taxibj": _taxibj,
    "weatherbench": _weatherbench,
    "rayleigh_benard": rayleigh_benard,
}
