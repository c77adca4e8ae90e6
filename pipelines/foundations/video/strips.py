"""Clips drawn as strips of frames, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stages.prepare.rasters import fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stages.core.themes import Theme

SEAM = 1
"""Pixels between frames."""
TITLE, GAP = 0.26, 0.05
"""Of a picture, in inches: what a title takes, and between strips side by side."""
BUDGET, FRAMES = 240_000, 8
"""Bytes of raster in a picture, which even noise then keeps below what a page takes; frames of a
clip that are drawn."""


def thinned(clips: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Clips (N, T, H, W, C) as they fit into one picture.

    Of longer clips eight frames, evenly spread, the first and the last included; frames that are
    too large are made smaller.
    """
    frames = clips.shape[1]
    if frames > FRAMES:
        clips = clips[:, np.rint(np.linspace(0, frames - 1, FRAMES)).astype(int)]
    shrink = (BUDGET / clips.size) ** 0.5
    if shrink >= 1:
        return clips
    height, width = (max(1, int(side * shrink)) for side in clips.shape[2:4])
    return np.stack([fit(clip, height, width) for clip in clips])


def strip(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames of a clip (T, H, W, C) side by side: (H, width, 4), the seams transparent.

    Frames of one channel are drawn in greys.
    """
    frames, height, width, channels = clip.shape
    image = np.zeros((height, frames * (width + SEAM) - SEAM, 4), dtype=np.uint8)
    for place, frame in enumerate(clip):
        left = place * (width + SEAM)
        colours = np.repeat(frame, 3, axis=-1) if channels == 1 else frame
        image[:, left : left + width, :3] = colours
        image[:, left : left + width, 3] = 255
    return image


def strips(
    clips: NDArray[np.uint8], titles: Sequence[str], columns: int = 1, width: float = 6.4
) -> Callable[[Theme], Figure]:
    """A function that draws clips (N, T, H, W, C) for `stages.core.pictures.save`.

    Many or large ones are drawn `thinned`.

    Args:
        titles: one above each strip.
        columns: strips side by side.
        width: of the figure, in inches; strips are scaled to it.
    """
    images = [strip(clip) for clip in thinned(clips)]
    tall, wide = images[0].shape[:2]
    across = (width - GAP * (columns + 1)) / columns
    down = across * tall / wide
    rows = -(-len(images) // columns)

    def draw(theme: Theme) -> Figure:
        # One pair of axes in inches, not one a strip: matplotlib takes long over many.
        height = rows * (TITLE + down)
        figure = theme.figure(width, height)
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for place, (image, title) in enumerate(zip(images, titles, strict=True)):
            left = GAP + place % columns * (across + GAP)
            top = place // columns * (TITLE + down) + TITLE
            axes.imshow(image, extent=(left, left + across, top + down, top), aspect="auto")
            axes.text(left, top - 0.05, title, fontsize=8.5)
        return figure

    return draw
