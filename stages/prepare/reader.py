"""Crops of mixtures on disk: a published set has tens of GB, so only what is asked for is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import UserError
from stages.core.seeding import numpy_generator
from stages.prepare.audio import resample
from stages.prepare.mixtures import FULL_SCALE, Float, starts, uniforms
from stages.prepare.published import Item


class Reader:
    """Crops of mixtures on disk, brought to the wanted rate."""

    def __init__(self, root: Path, file_rate: int, rate: int, length: int) -> None:
        """
        Args:
            root: the folder given by the user.
            file_rate: the files' sampling rate.
            rate: the wanted one.
            length: of a crop, in samples at the wanted rate.
        """
        self.root, self.file_rate, self.rate, self.length = root, file_rate, rate, length
        self.span = -(-length * file_rate // rate)  # of a crop, in samples of the files

    def crop(self, paths: Sequence[str], offset: int) -> Float:
        """Read one crop.

        Args:
            paths: mixture and sources, from the root.
            offset: first sample, at the files' rate.

        Returns:
            (len(paths), length).

        Raises:
            UserError: a file is no longer as `prepare` found it.
        """
        import soundfile

        rows = []
        for path in paths:
            try:
                row, _ = soundfile.read(
                    self.root / path, start=offset, frames=self.span, dtype="float32"
                )
            except (OSError, soundfile.LibsndfileError) as error:
                raise UserError(f"{self.root / path} cannot be read: {error}") from None
            if len(row) != self.span:
                raise UserError(
                    f"{self.root / path} is shorter than when `prepare` listed it; "
                    "run `dvc repro -f` of that stage"
                )
            rows.append(row)
        return resample(np.stack(rows), self.file_rate, self.rate)[:, : self.length]

    def batch(self, items: Sequence[Item], seed: int, step: int, size: int) -> tuple[Float, Float]:
        """Random crops of random mixtures, a pure function of (seed, step).

        Args:
            items: each at least one crop long.

        Returns:
            mix (size, length) and sources (size, 2, length).
        """
        rows = []
        for which, where in uniforms(seed, step, size, 2):
            item = items[int(which * len(items))]
            rows.append(self.crop(item.paths, int(where * (item.frames - self.span + 1))))
        data = np.stack(rows)
        return data[:, 0], data[:, 1:]

    def fixed(
        self,
        items: Sequence[Item],
        count: int,
        active_db: float,
        active_share: float,
        *seed: int | str,
    ) -> Iterator[tuple[Item, int]]:
        """Choose mixtures and offsets for a fixed set: both voices must speak in the crop.

        Args:
            items: all mixtures of the set, each at least one crop long.
            count: how many to choose; fewer come where fewer fit.
            active_db: see `stages.prepare.mixtures.starts`.
            active_share: likewise.
            seed: parts of the seed.
        """
        rng = numpy_generator("published", *seed)
        chosen = 0
        for index in rng.permutation(len(items)).tolist():
            if chosen == count:
                return
            offsets = self._spoken(items[index], active_db, active_share)
            if len(offsets):
                chosen += 1
                yield items[index], int(offsets[int(rng.random() * len(offsets))])

    def _spoken(self, item: Item, active_db: float, active_share: float) -> NDArray[np.int64]:
        import soundfile

        both: NDArray[np.int64] | None = None
        for path in item.paths[1:]:
            samples, _ = soundfile.read(self.root / path, dtype="float32")
            whole = np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
            good = starts(
                whole.astype(np.int16), self.file_rate, self.span, active_db, active_share
            )
            both = good if both is None else np.intersect1d(both, good)
        return both if both is not None else np.empty(0, dtype=np.int64)
