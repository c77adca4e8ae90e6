"""Two voices speaking at once, by the recipe of LRS2-2Mix.

Two crops of different speakers are brought to one level, scaled by +g/2 and -g/2 dB with
g ~ U(-5, 5), and added; the targets are the scaled sources (README of TDANet, Li et al. 2023:
signal-to-noise ratios between -5 and 5 dB; the symmetric gains stand in the published file names).
The level is that of a whole recording, as in the scripts of WSJ0-2mix, from which LRS2-2Mix
descends [inferred: its own script was not found].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from stages.core.seeding import numpy_generator, seed_of
from stages.prepare.audio import Samples, active, frame_size

Float = NDArray[np.float32]
FULL_SCALE = 32768.0


def split_names(
    seconds: Mapping[str, float],
    same: Iterable[tuple[str, str]],
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, str]:
    """Deal file names out to sets, so that a name is in one set alone, whoever speaks.

    Args:
        seconds: name -> how much is recorded under it, all voices together.
        same: pairs of names that say the same, which stay together.
        shares: set -> its share of the seconds; they add up to 1.
        seed: of the order in which names are dealt.

    Returns:
        Name -> set.
    """
    leader = {name: name for name in seconds}

    def lead(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for one, other in same:
        if one in leader and other in leader:
            leader[max(lead(one), lead(other))] = min(lead(one), lead(other))
    families: dict[str, list[str]] = {}
    for name in sorted(seconds):
        families.setdefault(lead(name), []).append(name)
    heads = sorted(families)
    order = numpy_generator("split", seed).permutation(len(heads))
    total, dealt = sum(seconds.values()), 0.0
    result: dict[str, str] = {}
    ends = list(zip(shares, np.cumsum(list(shares.values())), strict=True))
    for index in order:
        family = families[heads[index]]
        length = sum(seconds[name] for name in family)
        middle = (dealt + length / 2) / total
        target = next((name for name, end in ends if middle < end), ends[-1][0])
        result |= dict.fromkeys(family, target)
        dealt += length
    return result


def starts(
    samples: Samples, rate: int, crop: int, active_db: float, active_share: float
) -> NDArray[np.int64]:
    """Where a crop may start so that it is mostly speech, on a grid of 20 ms.

    Args:
        samples: (n,) of one recording.
        rate: Hz.
        crop: length in samples.
        active_db: a frame this much quieter than the recording's loudest is silence.
        active_share: share of a crop's frames that must not be silence.

    Returns:
        (k,) offsets in samples, ascending; empty where the recording is too short.
    """
    size = frame_size(rate)
    frames = crop // size
    counts = np.concatenate([[0], np.cumsum(active(samples, rate, active_db))])
    if len(counts) <= frames:
        return np.empty(0, dtype=np.int64)
    spoken = counts[frames:] - counts[:-frames]
    offsets = np.flatnonzero(spoken >= active_share * frames) * size
    return offsets[offsets + crop <= len(samples)]


def apart(offsets: NDArray[np.int64], crop: int) -> NDArray[np.int64]:
    """As many of the ascending `offsets` as can be crops of `crop` samples without overlap."""
    kept: list[int] = []
    for offset in offsets.tolist():
        if not kept or offset >= kept[-1] + crop:
            kept.append(offset)
    return np.array(kept, dtype=np.int64)


@dataclass(frozen=True)
class Pick:
    """One mixture: for each of its two sources the voice and the number of its crop."""

    voices: tuple[str, str]
    crops: tuple[int, int]
    gain_db: float


def fixed_set(crops: Mapping[str, int], count: int, gain_db: float, *seed: int | str) -> list[Pick]:
    """Draw the mixtures of a fixed set.

    Every pair of voices gets the same number of mixtures (but for one), and a crop comes a second
    time only when all others of its voice have been used.

    Args:
        crops: voice -> number of crops it has; two voices at least, with one crop at least.
        count: number of mixtures.
        gain_db: g ~ U(-gain_db, gain_db).
        seed: parts of the seed.
    """
    rng = numpy_generator("mixtures", *seed)
    pairs = list(combinations(sorted(crops), 2))
    decks: dict[str, list[int]] = {voice: [] for voice in crops}

    def deal(voice: str) -> int:
        if not decks[voice]:
            decks[voice] = rng.permutation(crops[voice]).tolist()
        return decks[voice].pop()

    picks = []
    for index in range(count):
        pair = pairs[index % len(pairs)]
        picks.append(
            Pick(pair, (deal(pair[0]), deal(pair[1])), float(rng.uniform(-gain_db, gain_db)))
        )
    return picks


def crop_of(samples: Samples, start: int, length: int, gain_db: float) -> Float:
    """A crop as float, scaled.

    Args:
        samples: 16-bit.
        start: first sample.
        length: number of samples.
        gain_db: in dB; 0 maps full scale to 1.
    """
    factor = np.float32(10 ** (gain_db / 20) / FULL_SCALE)
    return samples[start : start + length].astype(np.float32) * factor


def uniforms(seed: int, step: int, rows: int, columns: int) -> list[list[float]]:
    """Random numbers in [0, 1), a pure function of (seed, step).

    A counter-based generator (Philox) is keyed anew at each step, which costs microseconds.
    """
    key = np.array([seed_of("batch", seed), step], dtype=np.uint64)
    drawn: list[list[float]]
    drawn = np.random.Generator(np.random.Philox(key=key)).random((rows, columns)).tolist()
    return drawn


class Mixer:
    """Training mixtures made on the fly, each a pure function of (seed, step)."""

    def __init__(
        self,
        samples: Samples,
        voices: Sequence[NDArray[np.int32]],
        gains_db: Sequence[NDArray[np.float32]],
        length: int,
        gain_db: float,
    ) -> None:
        """
        Args:
            samples: all recordings, one after the other.
            voices: for each voice the positions in `samples` where a crop may start.
            gains_db: for each of those positions the gain that brings it to the common level.
            length: of a crop, in samples.
            gain_db: g ~ U(-gain_db, gain_db).
        """
        self.samples, self.voices, self.gains_db = samples, voices, gains_db
        self.length, self.gain_db = length, gain_db
        self.pairs = list(combinations(range(len(voices)), 2))

    def batch(self, seed: int, step: int, size: int) -> tuple[Float, Float]:
        """The mixtures of one training step.

        Pairs of voices are equally likely; within a voice every place is, so a long recording is
        heard more often than a short one.

        Returns:
            mix (size, length) and sources (size, 2, length).
        """
        draws = uniforms(seed, step, size, 4)
        sources = np.empty((size, 2, self.length), dtype=np.float32)
        for row, (pair, first, second, level) in zip(sources, draws, strict=True):
            half = (2 * level - 1) * self.gain_db / 2
            chosen = self.pairs[int(pair * len(self.pairs))]
            for k, (voice, place, gain) in enumerate(
                zip(chosen, (first, second), (half, -half), strict=True)
            ):
                index = int(place * len(self.voices[voice]))
                gain += float(self.gains_db[voice][index])
                row[k] = crop_of(self.samples, int(self.voices[voice][index]), self.length, gain)
        return sources.sum(axis=1), sources
