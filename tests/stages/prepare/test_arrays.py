"""Arrays from tiny files in every format that is read."""

import builtins

import numpy as np
import pytest
import torch

from stages.core.errors import UserError
from stages.prepare.arrays import read

DATA = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


def test_npy_is_read_where_it_lies(tmp_path):
    np.save(tmp_path / "a.npy", DATA)
    found = read(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, DATA)
    assert isinstance(found, np.memmap)


def test_npz_takes_the_only_array_of_three_axes_or_more(tmp_path):
    np.savez(tmp_path / "a.npz", u=DATA, t=np.arange(5))
    np.testing.assert_array_equal(read(tmp_path / "a.npz"), DATA)
    np.testing.assert_array_equal(read(tmp_path / "a.npz", "t"), np.arange(5))


def test_tensors(tmp_path):
    torch.save(torch.from_numpy(DATA), tmp_path / "a.pt")
    np.testing.assert_array_equal(read(tmp_path / "a.pt"), DATA)
    torch.save({"x": torch.from_numpy(DATA), "n": torch.ones(2), "of": "us"}, tmp_path / "b.pt")
    np.testing.assert_array_equal(read(tmp_path / "b.pt"), DATA)


def test_a_pickle_that_could_run_code_is_refused(tmp_path):
    class Danger:
        def __reduce__(self):
            return (print, ("run",))

    torch.save(Danger(), tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"cannot be read as .pt file"):
        read(tmp_path / "a.pt")


def test_matlab_7(tmp_path):
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", {"u": DATA, "a": DATA[0], "t": np.arange(5.0)})
    np.testing.assert_array_equal(read(tmp_path / "a.mat", "u"), DATA)
    with pytest.raises(UserError, match=r"name the array that is meant; it has a \(3 axes\), t"):
        read(tmp_path / "a.mat")


def test_matlab_73_has_its_axes_turned_back(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["u"] = DATA.T  # MATLAB writes the last axis first
    with (tmp_path / "a.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    np.testing.assert_array_equal(read(tmp_path / "a.mat", "u"), DATA)


def test_netcdf_3_with_packed_numbers_and_gaps(tmp_path):
    from scipy.io import netcdf_file

    with netcdf_file(tmp_path / "a.nc", "w") as file:
        for name, size in zip(("time", "lat", "lon"), (3, 4, 5), strict=True):
            file.createDimension(name, size)
            file.createVariable(name, "d", (name,))[:] = np.arange(size)
        packed = file.createVariable("t2m", "h", ("time", "lat", "lon"))
        packed[:] = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
        packed.scale_factor, packed.add_offset, packed._FillValue = 0.5, 270.0, np.int16(7)
    found = read(tmp_path / "a.nc")
    assert np.isnan(found[0, 1, 2]) and np.isnan(found).sum() == 1
    assert found[2, 3, 4] == 270 + 0.5 * 59 and found.dtype == np.float32


def test_netcdf_4_is_read_alike(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["lat"] = np.arange(4.0)
        file["t2m"] = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
        file["t2m"].attrs.update(
            {"scale_factor": np.array([0.5]), "add_offset": 270.0, "_FillValue": np.int16(7)}
        )
    found = read(tmp_path / "a.nc")
    assert np.isnan(found[0, 1, 2]) and found[2, 3, 4] == 270 + 0.5 * 59


def test_hdf5_looks_into_groups(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/u"] = DATA
    np.testing.assert_array_equal(read(tmp_path / "a.h5"), DATA)


@pytest.mark.parametrize("name", ["a.h5", "a.nc", "a.mat"])
def test_hdf5_without_its_package_says_what_to_install(name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    original = builtins.__import__

    def without(module, *rest):
        if module == "h5py":
            raise ImportError(module)
        return original(module, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs the package h5py: .venv/bin/pip install h5py"):
        read(tmp_path / name)


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        read(tmp_path / "a.npy")
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(UserError, match=r"files of this kind cannot be read; .npy, .npz"):
        read(tmp_path / "a.csv")
    np.savez(tmp_path / "a.npz", u=DATA)
    with pytest.raises(UserError, match=r"has no array 'w'; it has u \(4 axes\)"):
        read(tmp_path / "a.npz", "w")
    for name in ("b.npy", "b.npz", "b.mat", "b.pt", "b.nc"):
        (tmp_path / name).write_bytes(b"not what it says")
        with pytest.raises(UserError, match="cannot be read as"):
            read(tmp_path / name)
