"""Fields over time as the other stages see them, whatever they were prepared from."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.seeding import seed_of

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
KEY = "fields"
SPLITS = ("train", "valid", "test")
TRAIN = SPLITS[0]


class Fields:
    """What `prepare` made: trajectories, and the windows of history and future cut from them.

    Each channel has one mean and one standard deviation, those of the training trajectories, since
    channels may differ in unit. Frames and trajectories have none of their own: these would give
    away their level, and would weigh early frames, which are faint, like late ones.

    Attributes:
        dataset: its name in tables of scores.
        history, horizon: frames given and frames to forecast.
        channels: of a frame.
        size: (H, W).
        mean, std: of each channel of the training trajectories, raw units.
        low, high: their least and greatest value in any channel, raw units.
        unit: of the values.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.dataset: str = manifest["dataset"]
        self.history: int = manifest["history"]
        self.horizon: int = manifest["horizon"]
        self.channels: int = manifest["channels"]
        self.size: tuple[int, int] = (manifest["size"][0], manifest["size"][1])
        self.mean: tuple[float, ...] = tuple(manifest["mean"])
        self.std: tuple[float, ...] = tuple(manifest["std"])
        self.low: float = manifest["low"]
        self.high: float = manifest["high"]
        self.unit: str = manifest["unit"]
        self._raw: dict[str, Tensor] = {}
        self._windows: dict[str, list[tuple[int, int]]] = {}

    @staticmethod
    def load(folder: Path) -> Fields:
        """Open the output of `prepare`; the fields are read when they are asked for.

        Raises:
            UserError: the folder holds no prepared data.
        """
        if not (folder / MANIFEST).is_file():
            raise UserError(f"{folder} holds no prepared fields: {MANIFEST} is missing")
        return Fields(folder, read_json(folder / MANIFEST))

    def trajectories(self, split: str) -> Tensor:
        """A split as it was made: (N, T, C, H, W), raw units.

        Raises:
            UserError: there is no such split.
        """
        if split not in SPLITS:
            raise UserError(f"{self.dataset} has no split '{split}'; it has {', '.join(SPLITS)}")
        if split not in self._raw:
            from safetensors.torch import load_file

            self._raw[split] = load_file(self.folder / f"{split}.safetensors")[KEY]
        return self._raw[split]

    def windows(self, split: str) -> list[tuple[int, int]]:
        """Trajectory and first frame of each window of a split, in order."""
        if split not in self._windows:
            count, frames = self.trajectories(split).shape[:2]
            length, stride = self.history + self.horizon, self.manifest["stride"]
            self._windows[split] = starts(count, frames, length, stride)
        return self._windows[split]

    def count(self, split: str) -> int:
        """Windows in a split."""
        return len(self.windows(split))

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Training windows, a pure function of (seed, step); each epoch is a new permutation.

        Args:
            seed: of the order.
            step: 1, 2, …; the last batch of an epoch runs on into the next.

        Returns:
            x (B, T, C, H, W) and y (B, T', C, H, W), normalised, and the windows' places in
            `fixed("train")`, (B,) int64.
        """
        import torch

        count, first = self.count(TRAIN), (step - 1) * size
        epochs = range(first // count, (first + size - 1) // count + 1)
        order = torch.cat([_permutation(seed, epoch, count) for epoch in epochs])
        index = order[first % count :][:size]
        return *self._cut(TRAIN, index), index

    def fixed(self, split: str) -> tuple[list[str], Tensor, Tensor]:
        """All windows of a split, in order.

        Returns:
            ids, x (N, T, C, H, W) and y (N, T', C, H, W), normalised.
        """
        import torch

        windows = self.windows(split)
        cut = self.trajectories(split).shape[1] > self.history + self.horizon
        ids = [name(split, trajectory, frame, cut) for trajectory, frame in windows]
        return ids, *self._cut(split, torch.arange(len(windows)))

    def raw(self, values: Tensor) -> Tensor:
        """Normalised values (..., C, H, W) in raw units again."""
        mean, std = self._moments()
        return values * std.to(values.device) + mean.to(values.device)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation to broadcast over (..., C, H, W)."""
        import torch

        return torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]

    def _cut(self, split: str, index: Tensor) -> tuple[Tensor, Tensor]:
        """History and future of the windows at these places."""
        import torch

        raw, length = self.trajectories(split), self.history + self.horizon
        if raw.shape[1] == length:
            cut = raw[index]
        else:
            windows = self.windows(split)
            chosen = [windows[place] for place in index.tolist()]
            cut = torch.stack([raw[n, t : t + length] for n, t in chosen])
        mean, std = self._moments()
        cut = (cut - mean) / std
        return cut[:, : self.history], cut[:, self.history :]


def starts(count: int, frames: int, length: int, stride: int) -> list[tuple[int, int]]:
    """Trajectory and first frame of all windows of `length` frames, `stride` apart."""
    return [(n, t) for n in range(count) for t in range(0, frames - length + 1, stride)]


def name(split: str, trajectory: int, frame: int, cut: bool) -> str:
    """What a window is called: its trajectory, and its first frame where there are several."""
    return f"{split}-{trajectory:04d}" + (f"@{frame:06d}" if cut else "")


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> Tensor:
    """The order of an epoch."""
    import torch

    generator = torch.Generator().manual_seed(seed_of("windows", seed, epoch))
    return torch.randperm(count, generator=generator)
