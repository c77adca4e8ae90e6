"""Rasters brought to another grid by area: each pixel is the mean of what it covers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Bytes = NDArray[np.uint8]


def overlap(low: Float, width: float, cells: int, pixels: int) -> Float:
    """How much of each pixel each cell covers, along one axis.

    Args:
        low: (…) where the first of the cells begins, in pixels; may lie outside.
        width: of a cell, in pixels.
        cells: of the source.
        pixels: of the target; pixel i covers [i, i + 1).

    Returns:
        (…, pixels, cells), lengths in pixels. A target pixel that cells cover wholly has sum 1.
    """
    begin = (np.asarray(low)[..., None] + width * np.arange(cells))[..., None, :]
    edge = np.arange(pixels, dtype=np.float64)[:, None]
    shared = np.minimum(begin + width, edge + 1) - np.maximum(begin, edge)
    return np.clip(shared, 0.0, None)


def to_bytes(values: Float) -> Bytes:
    """Values in 0 to 255 as bytes.

    Rounded to six places first: the last bits of a sum depend on the order of its terms, and must
    not decide which way a half is rounded.
    """
    return np.clip(np.rint(np.round(values, 6)), 0, 255).astype(np.uint8)


def scaled(frames: Bytes, height: int, width: int) -> Bytes:
    """Frames (T, H, W, C) at the wanted size, whatever that does to their aspect.

    Returns:
        (T, height, width, C). Larger than the source, each pixel takes its nearest cell's value,
        or a mean along the edge of two.
    """
    tall, wide = frames.shape[1:3]
    rows = overlap(np.zeros(()), height / tall, tall, height)
    columns = overlap(np.zeros(()), width / wide, wide, width)
    half = np.einsum("yh,thwc->tywc", rows, frames.astype(np.float64), optimize=True)
    return to_bytes(np.einsum("xw,tywc->tyxc", columns, half, optimize=True))


def fit(frames: Bytes, height: int, width: int) -> Bytes:
    """Frames (T, H, W, C), cut to the wanted aspect about their middle, at the wanted size."""
    had_height, had_width = frames.shape[1:3]
    # Of the source, the largest window with the target's aspect.
    scale = min(had_height / height, had_width / width)
    tall, wide = round(height * scale), round(width * scale)
    top, left = (had_height - tall) // 2, (had_width - wide) // 2
    return scaled(frames[:, top : top + tall, left : left + wide], height, width)
