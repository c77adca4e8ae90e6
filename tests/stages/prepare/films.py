"""Tiny films for tests, written without loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def film(frames: int, seed: int = 0, height: int = 16, width: int = 24) -> NDArray[np.uint8]:
    """Random frames (T, H, W, 3)."""
    shape = (frames, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def write(path: Path, frames: NDArray[np.uint8]) -> None:
    """Write a Matroska file by the lossless codec FFV1."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture.reformat(format="bgr0")))
        container.mux(stream.encode())
