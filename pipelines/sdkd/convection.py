"""Rayleigh-Bénard convection in the layouts in which it is found.

Stored are trajectories (N, T, C, H, W), or one simulation (T, C, H, W); C may be left out, and then
`axes` tells the two apart; or several arrays without C, a channel each. A simulation is cut into
`tiles` along its width and into consecutive spans of time, each tile of a span a trajectory [shape
(2000, 2, 256, 1792), seven tiles and every fourth point: code of TF-Net, data_prep.py; the spans:
ours, since overlapping windows of all of it, as there, would put almost equal frames into training
and test].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.sdkd.published import Array, Axes, Counts, Found, Published, only, parted
from stages.core.errors import UserError
from stages.prepare.arrays import read


def rayleigh_benard(root: Path, given: Published, counts: Counts) -> Found:
    """Read trajectories, or cut one simulation into them.

    Raises:
        UserError: the file does not look as it should, or leaves open what its axes are.
    """
    path = root if root.is_file() else only(root, "")
    arrays = {name: read(path, name) for name in given.variables or [None]}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1:
        told = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise UserError(f"'{path}': the variables must have one shape, found {told}")
    (shape,) = shapes
    axes = given.axes or _guessed(shape, len(arrays), path)
    if len(shape) != len(axes):
        raise UserError(
            f"'{path}': sdkd.prepare.published.axes is {axes}, but the array has the shape {shape}"
        )
    # Without an axis for channels, the arrays are the channels.
    stacked = (
        np.stack(list(arrays.values()), -3) if "C" not in axes else next(iter(arrays.values()))
    )
    if "N" not in axes:
        stacked, counts = _cut(stacked, given.tiles, counts, path)
    elif given.tiles > 1:
        raise UserError(
            f"params.yaml: sdkd.prepare.published.tiles is {given.tiles}, but '{path}' holds "
            f"{shape[0]} trajectories (axes {axes}), which are not cut; put 1"
        )
    return Found("Rayleigh-Bénard", "as stored", parted(stacked, counts, path))


def _guessed(shape: tuple[int, ...], count: int, path: Path) -> Axes:
    """The axes of `count` arrays of this shape, where it leaves no doubt.

    Raises:
        UserError: it does, or no axes fit.
    """
    fitting: dict[int, list[Axes]] = {3: ["THW"], 4: ["TCHW", "NTHW"], 5: ["NTCHW"]}
    found = [axes for axes in fitting.get(len(shape), []) if count == 1 or "C" not in axes]
    if not found:
        what = "(N, T, H, W) or (T, H, W)" if count > 1 else "(N, T, C, H, W), (T, C, H, W), "
        what += "" if count > 1 else "(N, T, H, W) or (T, H, W)"
        raise UserError(f"'{path}': expected {what}, found {shape}")
    if len(found) > 1:
        raise UserError(
            f"'{path}' has the shape {shape}, which may be one simulation (T, C, H, W) or "
            "trajectories (N, T, H, W); say which by sdkd.prepare.published.axes in params.yaml: "
            f"{' or '.join(found)}"
        )
    return found[0]


def _cut(fields: Array, tiles: int, counts: Counts, path: Path) -> tuple[Array, Counts]:
    """One simulation (T, C, H, W) as trajectories: its spans of time, each in tiles."""
    spans = sum(counts.values())
    frames, width = fields.shape[0] // spans, fields.shape[3] // tiles
    if not frames or not width:
        raise UserError(
            f"'{path}' has {fields.shape[0]} frames of width {fields.shape[3]}, too little for "
            f"{spans} spans (sdkd.prepare.trajectories) and {tiles} tiles"
        )
    places = [(s, t) for s in range(spans) for t in range(tiles)]
    cut = [
        fields[s * frames : (s + 1) * frames, :, :, t * width : (t + 1) * width] for s, t in places
    ]
    return np.stack(cut), {split: count * tiles for split, count in counts.items()}
