"""Frames of video files, decoded with PyAV, which carries FFmpeg's libraries with it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import UserError

ENDINGS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
NEEDS = "decoding video needs the package av: .venv/bin/pip install -c constraints.txt av"


def frames(file: Path | bytes, name: str, every: int = 1) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video's first picture stream, in the order in which they are shown.

    Args:
        file: where it lies, or what it holds.
        name: what messages call it.
        every: give every so many-th frame, the first included. Frames are counted, not timed: a
            video whose rate varies is taken as it was stored.

    Yields:
        (H, W, 3) red, green, blue.

    Raises:
        UserError: av is not installed, or the file is no video or is broken.
    """
    try:
        import av
        from av.video.reformatter import Interpolation
    except ImportError:
        raise UserError(f"'{name}': {NEEDS}") from None
    # FFmpeg's fast ways to red, green, blue round by the processor's kind; these do not.
    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    source = io.BytesIO(file) if isinstance(file, bytes) else str(file)
    try:
        with av.open(source, "r") as container:
            if not container.streams.video:
                raise UserError(f"'{name}' has sound only; it is no video")
            stream = container.streams.video[0]
            for frame in islice(container.decode(stream), 0, None, every):
                pixels = frame.reformat(format="rgb24", interpolation=exact).to_ndarray()
                yield np.asarray(pixels, np.uint8)
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"'{name}' cannot be read as a video: {error}") from None


def version() -> str:
    """What decoded: part of a data set's origin, as another version may round colours otherwise."""
    try:
        import av
    except ImportError:
        raise UserError(NEEDS) from None
    return f"av {av.__version__}"
