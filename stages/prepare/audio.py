"""Recordings: reading, trimming, what is speech in them, and changing the sampling rate."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import UserError

Samples = NDArray[np.int16]

FRAME_SECONDS = 0.02
GSM_RATE = 8000  # a raw GSM 06.10 file has no header; telephony knows no other rate
SILENCE = "silence"  # telephone prompts keep stretches of silence in a folder of this name


@dataclass(frozen=True)
class Clip:
    """One recording without the silence at its ends.

    Attributes:
        file: path below the voice's folder, without the ending: "digits/1".
        samples: (frames,) 16-bit.
        skipped: frames of silence cut off at the start.
    """

    file: str
    samples: Samples
    skipped: int

    @property
    def name(self) -> str:
        """The file name alone: what is said, where many voices read the same prompts."""
        return self.file.rsplit("/", 1)[-1].lower()

    @property
    def digest(self) -> str:
        """SHA-256 of the trimmed samples."""
        return hashlib.sha256(self.samples.astype("<i2").tobytes()).hexdigest()


def read(path: Path, rate: int) -> Samples:
    """Read a mono 16-bit recording: a .wav file, or raw GSM 06.10 named .gsm.

    Args:
        path: the file.
        rate: the sampling rate it must have, in Hz.

    Raises:
        UserError: it cannot be read, or has another rate or more than one channel.
    """
    import soundfile

    raw: dict[str, Any] = {}
    if path.suffix == ".gsm":
        raw = {"format": "RAW", "subtype": "GSM610", "samplerate": GSM_RATE, "channels": 1}
    try:
        samples, found = soundfile.read(path, dtype="int16", **raw)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be read as audio: {error}") from None
    if samples.ndim != 1:
        raise UserError(f"{path} has {samples.shape[1]} channels; expected one")
    if found != rate:
        raise UserError(f"{path} has {found} Hz; expected {rate} (`rate` in params.yaml)")
    return samples


def energies(samples: Samples, rate: int) -> NDArray[np.int64]:
    """Energy of each frame of 20 ms, exact (integers, so that every machine decides alike).

    Returns:
        (frames,); an incomplete last frame is left out.
    """
    size = frame_size(rate)
    count = len(samples) // size
    framed = samples[: count * size].reshape(count, size).astype(np.int64)
    return np.einsum("ij,ij->i", framed, framed)


def frame_size(rate: int) -> int:
    return round(FRAME_SECONDS * rate)


def active(samples: Samples, rate: int, below_db: float) -> NDArray[np.bool_]:
    """Which frames of 20 ms are at most `below_db` quieter than the loudest.

    Returns:
        (frames,); all False where the recording is digital silence.
    """
    energy = energies(samples, rate)
    loudest = int(energy.max(initial=0))
    return (energy > 0) & (energy >= loudest * 10 ** (-below_db / 10))


def trim(samples: Samples, rate: int, below_db: float) -> tuple[int, int]:
    """Start and stop of a recording without the silence at its ends, in samples; (0, 0) if empty.

    Args:
        samples: (n,).
        rate: Hz.
        below_db: a frame this much quieter than the loudest one is silence.
    """
    frames = np.flatnonzero(active(samples, rate, below_db))
    if not len(frames):
        return 0, 0
    size = frame_size(rate)
    return int(frames[0]) * size, (int(frames[-1]) + 1) * size


def level_db(samples: Samples, rate: int, below_db: float) -> float:
    """Level of the active frames, in dB re full scale, to 0.0001 dB.

    Raises:
        ValueError: the recording is digital silence.
    """
    on = active(samples, rate, below_db)
    if not on.any():
        raise ValueError("digital silence has no level")
    power = int(energies(samples, rate)[on].sum()) / (int(on.sum()) * frame_size(rate))
    return round(10 * float(np.log10(power / 2**30)), 4)


def clips(folder: Path, rate: int, trim_db: float, skip: Collection[str]) -> Iterator[Clip]:
    """The recordings below a folder, sorted by path and trimmed.

    Left out are folders named `silence`, links, files whose name is in `skip`, and empty ones.

    Args:
        folder: of one voice.
        rate: the sampling rate they must have.
        trim_db: see `trim`.
        skip: file names without ending (not speech: beeps, noises).

    Raises:
        UserError: the folder is missing or holds no recording, or one is not as expected.
    """
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in (".wav", ".gsm")
        and not path.is_symlink()
        and SILENCE not in path.relative_to(folder).parts[:-1]
    )
    if not paths:
        raise UserError(f"{folder}: expected .wav or .gsm files below it, found none")
    for path in paths:
        if path.stem in skip:
            continue
        samples = read(path, rate)
        start, stop = trim(samples, rate, trim_db)
        if stop > start:
            file = path.relative_to(folder).with_suffix("").as_posix()
            yield Clip(file, samples[start:stop], start)


def distinct(recordings: Iterable[Clip]) -> tuple[list[Clip], list[tuple[str, str]]]:
    """Drop every recording whose trimmed samples equal those of an earlier one.

    Returns:
        The recordings kept, in order; and the pairs (name kept, name dropped). Two names that one
        voice uses for one recording say the same, so other voices say the same there too.
    """
    kept: dict[str, Clip] = {}
    same: list[tuple[str, str]] = []
    for clip in recordings:
        first = kept.setdefault(clip.digest, clip)
        if first is not clip:
            same.append((first.name, clip.name))
    return list(kept.values()), same


def resample(samples: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """Change the sampling rate with scipy's polyphase filter (anti-aliased, linear phase).

    A linear operation: what was a sum of sources remains one.

    Args:
        samples: (..., n) at `rate` Hz.

    Returns:
        (..., ceil(n * wanted / rate)).
    """
    if rate == wanted:
        return samples
    from math import gcd

    from scipy.signal import resample_poly

    common = gcd(rate, wanted)
    changed = resample_poly(samples, wanted // common, rate // common, axis=-1)
    return np.asarray(changed, dtype=np.float32)
