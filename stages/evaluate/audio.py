"""Sound for the report: short, small, and the same bytes for the same samples."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.core.files import write_bytes

LEVEL = 0.06
"""Root mean square of every clip, so that no estimate wins by being louder (about -24 dBFS)."""
PEAK = 0.98


def levelled(signal: NDArray[np.floating]) -> NDArray[np.float64]:
    """`signal` (T,) at `LEVEL`, or lower where its peak would clip. Silence stays silence.

    Raises:
        ValueError: the signal is not one channel of finite numbers.
    """
    samples = np.asarray(signal, dtype=np.float64)
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise ValueError(f"a clip must be one channel of finite numbers, got {samples.shape}")
    loudness, peak = float(np.sqrt(np.mean(samples**2))), float(np.abs(samples).max())
    return samples if loudness == 0 else samples * min(LEVEL / loudness, PEAK / peak)


def write_wav(path: Path, signal: NDArray[np.floating], rate: int) -> None:
    """Write `signal` (T,), levelled, as a 16-bit WAV of `rate` samples a second."""
    samples = np.round(levelled(signal) * 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    write_bytes(path, buffer.getvalue())
