"""Arrays of numbers from the files in which data sets are published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import UserError

LEAST_AXES = 3
"""An array with fewer is an axis, a label or a list of times, not the data."""


def read(path: Path, name: str | None = None) -> NDArray[Any]:
    """Read one array.

    `.npy`, `.npz`, `.pt` (a tensor, or a dict of tensors), `.mat` (MATLAB 7 and 7.3), `.nc` (both
    kinds of NetCDF) and `.h5`. Scale and offset that a NetCDF variable carries are applied.

    Args:
        path: the file.
        name: of the array; None for the only one with three axes or more.

    Returns:
        The array, its axes in the order that the publisher's own tools show.

    Raises:
        UserError: the file is not there, is of another kind or damaged, lacks the array, leaves
            open which one is meant, or needs a package that is not installed.
    """
    if not path.is_file():
        raise UserError(f"'{path}' is not there")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"'{path}': files of this kind cannot be read; {', '.join(_READERS)} can")
    try:
        return reader(path, name)
    except UserError:
        raise
    except Exception as error:  # a damaged file breaks its reader in any way
        raise UserError(
            f"'{path}' cannot be read as {path.suffix} file: {str(error)[:200]}"
        ) from None


def _chosen(path: Path, name: str | None, axes: Mapping[str, int]) -> str:
    """The array that is meant, of those in a file with so many axes each."""
    told = ", ".join(f"{key} ({count} axes)" for key, count in sorted(axes.items())) or "nothing"
    if name is not None:
        if name not in axes:
            raise UserError(f"'{path}' has no array '{name}'; it has {told}")
        return name
    found = [key for key, count in sorted(axes.items()) if count >= LEAST_AXES]
    if len(found) != 1:
        raise UserError(f"'{path}': name the array that is meant; it has {told}")
    return found[0]


def _npy(path: Path, name: str | None) -> NDArray[Any]:
    # Read where it is used: a published set can be larger than the memory.
    found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _npz(path: Path, name: str | None) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as file:
        if name is not None and name in file.files:
            return np.asarray(file[name])
        arrays = {key: file[key] for key in file.files}
    return np.asarray(arrays[_chosen(path, name, {key: a.ndim for key, a in arrays.items()})])


def _pt(path: Path, name: str | None) -> NDArray[Any]:
    import torch

    held = torch.load(path, weights_only=True, map_location="cpu")
    if isinstance(held, torch.Tensor):
        return np.asarray(held.numpy())
    tensors = {k: v for k, v in held.items() if isinstance(v, torch.Tensor)}
    key = _chosen(path, name, {k: v.ndim for k, v in tensors.items()})
    return np.asarray(tensors[key].numpy())


def _mat(path: Path, name: str | None) -> NDArray[Any]:
    if path.open("rb").read(10) == b"MATLAB 7.3" or _is_hdf5(path):
        # MATLAB stores the last axis first there.
        return _hdf5(path, name).T
    from scipy.io import loadmat, whosmat

    key = _chosen(path, name, {key: len(shape) for key, shape, _ in whosmat(path)})
    return np.asarray(loadmat(path, variable_names=[key])[key])


def _netcdf(path: Path, name: str | None) -> NDArray[Any]:
    if _is_hdf5(path):
        return _hdf5(path, name)
    from scipy.io import netcdf_file

    with netcdf_file(path, mmap=False) as file:
        key = _chosen(path, name, {k: len(v.shape) for k, v in file.variables.items()})
        variable = file.variables[key]
        return _scaled(np.array(variable.data), vars(variable).get("_attributes", {}))


def _hdf5(path: Path, name: str | None) -> NDArray[Any]:
    try:
        import h5py
    except ImportError:
        raise UserError(
            f"'{path}' is an HDF5 file, and reading it needs the package h5py: "
            ".venv/bin/pip install h5py"
        ) from None
    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {}
        file.visititems(lambda key, o: found.update({key: o}) if hasattr(o, "shape") else None)
        held = found[_chosen(path, name, {key: len(o.shape) for key, o in found.items()})]
        return _scaled(np.asarray(held[()]), held.attrs)


def _scaled(values: NDArray[Any], attributes: Any) -> NDArray[Any]:
    """Packed numbers as what they stand for; NaN where there is none [CF conventions, 8.1]."""
    packing = {
        key: np.ravel(attributes[key])[0]
        for key in ("scale_factor", "add_offset", "_FillValue", "missing_value")
        if key in attributes
    }
    if not packing:
        return values
    empty = [packing[key] for key in ("_FillValue", "missing_value") if key in packing]
    scale, offset = (float(packing.get(k, d)) for k, d in (("scale_factor", 1), ("add_offset", 0)))
    made = values.astype(np.float64) * scale + offset
    made[np.isin(values, np.array(empty, dtype=values.dtype))] = np.nan
    return made if values.dtype.itemsize > 4 else made.astype(np.float32)


def _is_hdf5(path: Path) -> bool:
    """Whether it is HDF5, which may follow a block of the user's: MATLAB's has 512 bytes."""
    with path.open("rb") as file:
        head = file.read(520)
    return b"\x89HDF\r\n\x1a\n" in (head[:8], head[512:520])


_READERS: dict[str, Callable[[Path, str | None], NDArray[Any]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _pt,
    ".mat": _mat,
    ".nc": _netcdf,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
}
