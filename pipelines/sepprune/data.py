"""Two-speaker mixtures as the other stages see them, whatever they were prepared from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.core.errors import UserError
from stages.core.files import read_json
from stages.prepare.datalock import combined
from stages.prepare.mixtures import Mixer, crop_of
from stages.prepare.published import Item
from stages.prepare.reader import Reader
from stages.prepare.tables import read_csv

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
SPEECH = "speech.npy"
CROPS = "crops.npy"
FILES = "files.csv"


class Speech:
    """What `prepare` made.

    Attributes:
        dataset: its name in tables of scores.
        rate: Hz.
        seconds: length of every crop.
        splits: names of the sets; the first is the one trained on.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.dataset: str = manifest["dataset"]
        self.rate: int = manifest["rate"]
        self.seconds: float = manifest["seconds"]
        self.length = round(self.rate * self.seconds)
        self.splits: tuple[str, ...] = tuple(manifest["splits"])

    @staticmethod
    def load(folder: Path) -> Speech:
        """Open the output of `prepare`; what is large is read when it is asked for.

        Raises:
            UserError: the folder holds no prepared data, or the published set has gone.
        """
        if not (folder / MANIFEST).is_file():
            raise UserError(f"{folder} holds no prepared speech: {MANIFEST} is missing")
        manifest = read_json(folder / MANIFEST)
        kind = Voices if manifest["source"] == "packages" else Published
        return kind(folder, manifest)

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Training mixtures, a pure function of (seed, step).

        Returns:
            mix (size, T) and sources (size, 2, T), float32 in [-1, 1] but for overlaps.
        """
        import torch

        mix, sources = self._batch(seed, step, size)
        return torch.from_numpy(mix), torch.from_numpy(sources)

    def fixed(self, split: str) -> tuple[list[str], Tensor, Tensor]:
        """A fixed set, all of it.

        Returns:
            ids, mix (N, T) and sources (N, 2, T), in the order of the manifest.

        Raises:
            UserError: there is no such set, or it is the one that is made on the fly.
        """
        import torch

        rows = self.rows(split)
        mix = np.empty((len(rows), self.length), dtype=np.float32)
        sources = np.empty((len(rows), 2, self.length), dtype=np.float32)
        for index, row in enumerate(rows):
            mix[index], sources[index] = self._example(row)
        return [row["id"] for row in rows], torch.from_numpy(mix), torch.from_numpy(sources)

    def rows(self, split: str) -> list[dict[str, str]]:
        """The manifest of a fixed set: what each mixture is made of."""
        if split not in self.splits[1:]:
            raise UserError(
                f"{self.dataset} has no fixed set '{split}'; it has {', '.join(self.splits[1:])}"
            )
        return read_csv(self.folder / f"{split}.csv")

    def credit(self, split: str, index: int) -> str:
        """Whom to name under a mixture that is published as audio; "" where it must not be."""
        return ""

    def _batch(self, seed: int, step: int, size: int) -> tuple[Any, Any]:
        raise TypeError("Speech.load gives the right kind")

    def _example(self, row: dict[str, str]) -> tuple[Any, Any]:
        raise TypeError("Speech.load gives the right kind")


class Voices(Speech):
    """Mixtures of single voices, made here."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        super().__init__(folder, manifest)
        self.samples = np.load(folder / SPEECH, mmap_mode="r")
        self.files = {(row["voice"], row["file"]): row for row in read_csv(folder / FILES)}
        self._mixer: Mixer | None = None

    def _batch(self, seed: int, step: int, size: int) -> tuple[Any, Any]:
        if self._mixer is None:
            self._mixer = self._make_mixer()
        return self._mixer.batch(seed, step, size)

    def _make_mixer(self) -> Mixer:
        positions = np.load(self.folder / CROPS)
        rows = [row for row in self.files.values() if row["split"] == self.splits[0]]
        begins = np.array([int(row["start"]) for row in rows])
        levels = np.array([float(row["level_db"]) for row in rows], dtype=np.float32)
        owner = np.searchsorted(begins, positions, side="right") - 1
        gains = np.float32(self.manifest["level_db"]) - levels[owner]
        voice = np.array([row["voice"] for row in rows])[owner]
        names = sorted(set(voice.tolist()))
        return Mixer(
            np.array(self.samples),
            [positions[voice == name] for name in names],
            [gains[voice == name] for name in names],
            self.length,
            self.manifest["gain_db"],
        )

    def _example(self, row: dict[str, str]) -> tuple[Any, Any]:
        parts = []
        for k in "12":
            file = self.files[row[f"voice_{k}"], row[f"file_{k}"]]
            start = int(file["start"]) + int(row[f"offset_{k}"]) - int(file["skipped"])
            gain = float(row[f"gain_{k}_db"])
            parts.append(crop_of(self.samples, start, self.length, gain))
        sources = np.stack(parts)
        return sources.sum(axis=0), sources

    def credit(self, split: str, index: int) -> str:
        """Whom to name under a mixture that is published as audio.

        Returns:
            Both authors in the words they ask for, and the licence of the mixture; "" where the
            licences of its two voices do not allow it to be handed on (see `combined`).
        """
        row = self.rows(split)[index]
        voices = [self.manifest["voices"][row[f"voice_{k}"]] for k in "12"]
        licence = combined(voice["licence"] for voice in voices)
        if not licence:
            return ""
        named = "; ".join(f"{v['attribution']} ({v['licence']})" for v in voices)
        return f"Mixed from two voices: {named}. The mixture is under {licence}."


class Published(Speech):
    """Mixtures of a published set, read from the user's folder."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        super().__init__(folder, manifest)
        root = Path(manifest["root"])
        if not root.is_absolute():
            root = folder.absolute().parents[2] / root  # work/<paper>/prepare lies in the project
        if not root.is_dir():
            raise UserError(
                f"the published set is gone: '{root}' (sepprune.prepare.root in params.yaml)"
            )
        self.reader = Reader(root, manifest["file_rate"], self.rate, self.length)
        self._items: list[Item] | None = None

    def _batch(self, seed: int, step: int, size: int) -> tuple[Any, Any]:
        if self._items is None:
            rows = read_csv(self.folder / f"{self.splits[0]}.csv")
            self._items = [Item(row["id"], paths_of(row), int(row["frames"])) for row in rows]
        return self.reader.batch(self._items, seed, step, size)

    def _example(self, row: dict[str, str]) -> tuple[Any, Any]:
        data = self.reader.crop(paths_of(row), int(row["offset"]))
        return data[0], data[1:]


def paths_of(row: dict[str, str]) -> tuple[str, str, str]:
    return row["mix"], row["source_1"], row["source_2"]
