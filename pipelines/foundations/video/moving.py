"""Pictures that move over a black ground: directions and their words, ways, drawing."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipelines.foundations.video.made import Bytes, Form
from stages.prepare.rasters import Float, overlap, to_bytes

Direction = Literal["right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right"]
DIRECTIONS: dict[str, tuple[tuple[int, int], str]] = {
    "right": ((0, 1), "to the right"),
    "down-right": ((1, 1), "down and to the right"),
    "down": ((1, 0), "down"),
    "down-left": ((1, -1), "down and to the left"),
    "left": ((0, -1), "to the left"),
    "up-left": ((-1, -1), "up and to the left"),
    "up": ((-1, 0), "up"),
    "up-right": ((-1, 1), "up and to the right"),
}
"""Direction -> rows down and columns to the right, and how a caption says it."""


def caption(digit: int, direction: str) -> str:
    """Such as "a 3 moving up and to the left"."""
    return f"{'an' if digit == 8 else 'a'} {digit} moving {DIRECTIONS[direction][1]}"


def room(side: int, form: Form) -> tuple[int, int]:
    """Pixels, down and across, by which a box of `side` pixels can be shifted in a frame."""
    return form.height - side, form.width - side


def paths(step: Float, draws: Float, space: tuple[int, int], frames: int, bounce: bool) -> Float:
    """Where the upper left corners of the boxes are.

    Args:
        step: (N, 2) pixels a frame, down and to the right.
        draws: (N, 2) uniform in [0, 1): of the starting places that leave the way free, one, a
            whole number of pixels from the wall that the box moves away from.
        space: as `room` gives it; at least as long as the way, or with `bounce` its first step.
        bounce: fold the way back at the walls.

    Returns:
        (N, T, 2) in pixels.
    """
    wide = np.array(space, dtype=np.float64)
    free = wide - np.abs(step) * (1 if bounce else frames - 1)
    start = np.floor(draws * (np.floor(free) + 1))
    start = np.where(step < 0, wide - start, start)
    way = start[:, None] + step[:, None] * np.arange(frames)[:, None]
    there = np.mod(way, 2 * wide)  # there and back again
    folded: Float = np.minimum(there, 2 * wide - there)
    return folded


def drawn(images: Float, places: Float, side: int, form: Form) -> Bytes:
    """Digits (N, 20, 20) with their boxes at places (N, T, 2): clips (N, T, H, W, 1)."""
    cells = images.shape[-1]
    rows = overlap(places[..., 0], side / cells, cells, form.height)
    columns = overlap(places[..., 1], side / cells, cells, form.width)
    half = np.einsum("ntyh,nhw->ntyw", rows, images, optimize=True)
    return to_bytes(np.einsum("ntxw,ntyw->ntyx", columns, half, optimize=True))[..., None]
