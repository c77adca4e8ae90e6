"""The published layouts, each on a tiny set in its format."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipelines.sdkd.layouts import find
from pipelines.sdkd.published import Published
from stages.core.errors import UserError

COUNTS = {"train": 3, "valid": 1, "test": 2}


def given(layout, **change):
    values = {
        "layout": layout, "root": "", "variables": [], "every": 1, "coarsen": 1, "tiles": 1,
        "axes": None,
    }  # fmt: skip
    return Published.model_validate(values | change)


def numbered(*shape):
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


# ------------------------------------------------------------------------- fno


@pytest.fixture
def fno(tmp_path):
    """(N, H, W, T) as the file has it, a trajectory too many."""
    from scipy.io import savemat

    u = numbered(7, 4, 4, 5)
    path = tmp_path / "NavierStokes_V1e-5_N1200_T20.mat"
    savemat(path, {"a": u[..., 0], "u": u, "t": np.arange(5.0)})
    return path, u


def check_fno(root, u):
    found = find(root, given("fno"), COUNTS)
    assert {s: f.shape for s, f in found.fields.items()} == {
        "train": (3, 5, 1, 4, 4), "valid": (1, 5, 1, 4, 4), "test": (2, 5, 1, 4, 4),
    }  # fmt: skip
    assert all(f.dtype == np.float32 for f in found.fields.values())
    for split, first in (("train", 0), ("valid", 4), ("test", 5)):
        for frame in range(5):
            np.testing.assert_array_equal(
                found.fields[split][0, frame, 0], u[first, :, :, frame].astype("float32")
            )


def test_fno(fno):
    path, u = fno
    check_fno(path, u)
    check_fno(path.parent, u)  # the folder that holds the one file will do


def test_fno_in_matlab_73(tmp_path):
    h5py = pytest.importorskip("h5py")
    u = numbered(7, 4, 4, 5)
    with h5py.File(tmp_path / "ns.mat", "w", userblock_size=512) as file:
        file["u"] = u.T
    check_fno(tmp_path / "ns.mat", u)


def test_points_and_frames_are_thinned_out(fno):
    found = find(fno[0], given("fno", every=2, coarsen=2), COUNTS)
    np.testing.assert_array_equal(found.fields["test"][1, 2, 0], fno[1][6, ::2, ::2, 4])
    assert found.fields["test"].shape == (2, 3, 1, 2, 2)


def test_too_few_trajectories_are_told(fno):
    with pytest.raises(UserError, match=r"has 7 trajectories, fewer than the 9"):
        find(fno[0], given("fno"), {"train": 5, "valid": 2, "test": 2})


def test_gaps_are_refused(tmp_path):
    from scipy.io import savemat

    u = numbered(6, 4, 4, 5)
    u[5, 0, 0, 0] = np.nan
    savemat(tmp_path / "u.mat", {"u": u})
    with pytest.raises(UserError, match="has gaps or infinite numbers in its test part"):
        find(tmp_path, given("fno"), COUNTS)


def test_the_wrong_file_is_told(tmp_path):
    from scipy.io import savemat

    with pytest.raises(UserError, match=r"expected one file \*.mat, found none"):
        find(tmp_path, given("fno"), COUNTS)
    savemat(tmp_path / "u.mat", {"u": numbered(6, 4, 4)})
    with pytest.raises(UserError, match=r"expected u \(N, H, W, T\), found \(6, 4, 4\)"):
        find(tmp_path, given("fno"), COUNTS)


# ------------------------------------------------------------------------- taxibj


def test_taxibj_plus(tmp_path):
    whole = {part: numbered(n, 6, 2, 8, 8) for part, n in (("train", 4), ("val", 1), ("test", 3))}
    for part, data in whole.items():
        np.save(tmp_path / f"{part}_input_data_reshaped.npy", data[:, :3])
        np.save(tmp_path / f"{part}_output_data_reshaped.npy", data[:, 3:])
    found = find(tmp_path, given("taxibj"), COUNTS)
    np.testing.assert_array_equal(found.fields["train"], whole["train"][:3])
    np.testing.assert_array_equal(found.fields["valid"], whole["val"])
    np.testing.assert_array_equal(found.fields["test"], whole["test"][:2])
    with pytest.raises(UserError, match="has 1 windows for valid, fewer than the 2"):
        find(tmp_path, given("taxibj"), COUNTS | {"valid": 2})


def test_taxibj_splits_share_no_frame(tmp_path):
    """Its windows overlap: the next one begins a frame later."""
    frames = numbered(30, 2, 4, 4)
    windows = np.stack([frames[i : i + 6] for i in range(25)])
    parts = {"X_train": windows[:20, :3], "Y_train": windows[:20, 3:]}
    parts |= {"X_test": windows[20:, :3], "Y_test": windows[20:, 3:]}
    np.savez(tmp_path / "dataset.npz", **parts)
    found = find(tmp_path, given("taxibj"), {"train": 7, "valid": 3, "test": 5})
    np.testing.assert_array_equal(found.fields["valid"], windows[12:15])
    seen = [set(found.fields[split].ravel()) for split in ("train", "valid", "test")]
    assert not seen[0] & seen[1] and not seen[1] & seen[2] and not seen[0] & seen[2]
    with pytest.raises(UserError, match="has 7 windows for train, fewer than the 8"):
        find(tmp_path, given("taxibj"), {"train": 8, "valid": 3, "test": 5})


def test_taxibj_of_unequal_halves_is_refused(tmp_path):
    for part in ("train", "val", "test"):
        np.save(tmp_path / f"{part}_input_data_reshaped.npy", numbered(4, 3, 2, 8, 8))
        np.save(tmp_path / f"{part}_output_data_reshaped.npy", numbered(4, 3, 2, 4, 4))
    with pytest.raises(UserError, match=r"expected histories and futures \(N, T, C, H, W\)"):
        find(tmp_path, given("taxibj"), COUNTS)


# ------------------------------------------------------------------------- weatherbench


def years(folder, name, hours=(8, 9, 8, 8, 8, 9, 8)):
    """A file a year; leap years have an hour more here."""
    from scipy.io import netcdf_file

    (folder / name).mkdir(parents=True)
    made = []
    for i, count in enumerate(hours):
        data = 1000.0 * i + numbered(count, 2, 4)
        with netcdf_file(folder / name / f"{name}_{1979 + i}_5.625deg.nc", "w") as file:
            for axis, size in zip(("time", "lat", "lon"), data.shape, strict=True):
                file.createDimension(axis, size)
                file.createVariable(axis, "d", (axis,))[:] = np.arange(size)
            file.createVariable("t2m", "f", ("time", "lat", "lon"))[:] = data
        made.append(data)
    return made


def test_weatherbench_splits_by_year(tmp_path):
    made = years(tmp_path, "2m_temperature")
    found = find(tmp_path, given("weatherbench", every=2), COUNTS)
    assert found.title == "WeatherBench 2m_temperature"
    for split, first, count in (("train", 0, 3), ("valid", 4, 1), ("test", 5, 2)):
        assert found.fields[split].shape == (count, 4, 1, 2, 4)
        for i in range(count):
            np.testing.assert_array_equal(found.fields[split][i, :, 0], made[first + i][:8:2])


def test_weatherbench_variables_are_channels(tmp_path):
    u = years(tmp_path, "10m_u_component_of_wind")
    v = years(tmp_path, "10m_v_component_of_wind")
    names = ["10m_v_component_of_wind", "10m_u_component_of_wind"]
    found = find(tmp_path, given("weatherbench", variables=names), COUNTS)
    assert found.fields["test"].shape == (2, 8, 2, 2, 4)
    np.testing.assert_array_equal(found.fields["test"][0, :, 0], v[5][:8])
    np.testing.assert_array_equal(found.fields["test"][0, :, 1], u[5][:8])
    with pytest.raises(UserError, match="expected one entry, found 10m_u"):
        find(tmp_path, given("weatherbench"), COUNTS)
    with pytest.raises(UserError, match="holds 7 files"):
        find(tmp_path, given("weatherbench", variables=names), COUNTS | {"train": 9})


# ------------------------------------------------------------------------- rayleigh_benard


def test_rayleigh_benard_trajectories(tmp_path):
    data = numbered(8, 5, 2, 4, 6)
    np.savez(tmp_path / "rbc.npz", velocity=data, time=np.arange(5))
    found = find(tmp_path / "rbc.npz", given("rayleigh_benard"), COUNTS)
    np.testing.assert_array_equal(found.fields["train"], data[:3])
    np.testing.assert_array_equal(found.fields["valid"], data[5:6])
    np.testing.assert_array_equal(found.fields["test"], data[6:])


def test_one_simulation_is_cut_in_time_and_width(tmp_path):
    """Spans of time part the splits: no frame of a test span is in training, in any tile."""
    data = numbered(25, 2, 8, 24)
    torch.save(torch.from_numpy(data), tmp_path / "rbc_data.pt")
    wanted = given("rayleigh_benard", tiles=3, coarsen=4, axes="TCHW")
    found = find(tmp_path, wanted, COUNTS)
    assert {s: f.shape for s, f in found.fields.items()} == {
        "train": (9, 4, 2, 2, 2), "valid": (3, 4, 2, 2, 2), "test": (6, 4, 2, 2, 2),
    }  # fmt: skip
    np.testing.assert_array_equal(
        found.fields["test"][4], data[20:24, :, ::4, 8:16:4]  # the last span's middle tile
    )  # fmt: skip
    assert not set(found.fields["train"].ravel()) & set(found.fields["test"].ravel())


def test_netcdf_variables_are_channels(tmp_path):
    from scipy.io import netcdf_file

    u, v = numbered(12, 4, 4), -numbered(12, 4, 4)
    with netcdf_file(tmp_path / "rbc.nc", "w") as file:
        for axis, size in zip("tyx", u.shape, strict=True):
            file.createDimension(axis, size)
        for name, values in (("u", u), ("v", v)):
            file.createVariable(name, "f", tuple("tyx"))[:] = values
    found = find(tmp_path / "rbc.nc", given("rayleigh_benard", variables=["u", "v"]), COUNTS)
    assert found.fields["train"].shape == (3, 2, 2, 4, 4)
    np.testing.assert_array_equal(found.fields["valid"][0, :, 1], v[6:8])


def test_too_short_a_simulation_is_told(tmp_path):
    np.save(tmp_path / "a.npy", numbered(5, 2, 4, 4))
    with pytest.raises(UserError, match="has 5 frames of width 4, too little for 6 spans"):
        find(tmp_path, given("rayleigh_benard", axes="TCHW"), COUNTS)
    np.save(tmp_path / "a.npy", numbered(5, 4))
    with pytest.raises(UserError, match=r"expected \(N, T, C, H, W\), \(T, C, H, W\), "):
        find(tmp_path, given("rayleigh_benard"), COUNTS)


def test_trajectories_without_channels_are_not_taken_for_a_simulation(tmp_path):
    """(N, T, H, W) and (T, C, H, W) look alike: the user says which it is."""
    data = numbered(8, 5, 4, 6)
    np.save(tmp_path / "a.npy", data)
    with pytest.raises(UserError, match=r"published.axes in params.yaml: TCHW or NTHW"):
        find(tmp_path, given("rayleigh_benard"), COUNTS)
    found = find(tmp_path, given("rayleigh_benard", axes="NTHW"), COUNTS)
    np.testing.assert_array_equal(found.fields["test"], data[6:, :, None])
    found = find(tmp_path, given("rayleigh_benard", axes="TCHW"), COUNTS)
    np.testing.assert_array_equal(found.fields["test"][1], data[5:6])
    with pytest.raises(UserError, match=r"axes is THW, but the array has the shape \(8, 5, 4, 6\)"):
        find(tmp_path, given("rayleigh_benard", axes="THW"), COUNTS)


def test_a_scalar_simulation_needs_no_axis_for_its_channel(tmp_path):
    data = numbered(12, 4, 6)
    np.save(tmp_path / "a.npy", data)
    found = find(tmp_path, given("rayleigh_benard", tiles=2), COUNTS)
    assert found.fields["test"].shape == (4, 2, 1, 4, 3)
    np.testing.assert_array_equal(found.fields["test"][3, :, 0], data[10:12, :, 3:])


def test_trajectories_of_several_variables_are_stacked(tmp_path):
    u, v = numbered(8, 5, 4, 6), -numbered(8, 5, 4, 6)
    np.savez(tmp_path / "rbc.npz", u=u, v=v)
    found = find(tmp_path, given("rayleigh_benard", variables=["v", "u"]), COUNTS)
    np.testing.assert_array_equal(found.fields["train"], np.stack([v, u], 2)[:3])


def test_variables_of_unequal_shape_are_told(tmp_path):
    np.savez(tmp_path / "rbc.npz", u=numbered(12, 4, 4), v=numbered(12, 4, 5))
    message = r"must have one shape, found u \(12, 4, 4\), v \(12, 4, 5\)"
    with pytest.raises(UserError, match=message):
        find(tmp_path, given("rayleigh_benard", variables=["u", "v"]), COUNTS)


def test_trajectories_are_not_cut_into_tiles(tmp_path):
    np.save(tmp_path / "a.npy", numbered(8, 5, 2, 4, 6))
    with pytest.raises(UserError, match=r"tiles is 3, but .* 8 trajectories .* put 1"):
        find(tmp_path, given("rayleigh_benard", tiles=3), COUNTS)


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("taxibj", {"variables": ["inflow"]}, "of the layout taxibj must be none"),
        ("taxibj", {"tiles": 2}, "the layout taxibj takes tiles: 1 and axes: null"),
        ("weatherbench", {"axes": "THW"}, "the layout weatherbench takes tiles: 1"),
        ("fno", {"variables": ["u", "a"]}, "of the layout fno must be one array"),
        ("rayleigh_benard", {"variables": ["u", "u"]}, "names one twice"),
        ("rayleigh_benard", {"variables": ["u", "v"], "axes": "TCHW"}, "axes must be NTHW or THW"),
    ],
)
def test_what_a_layout_does_not_heed_is_refused(layout, change, message):
    with pytest.raises(ValidationError, match=message):
        given(layout, **change)
