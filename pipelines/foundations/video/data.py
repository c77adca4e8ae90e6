"""Clips with captions as the other stages see them, whatever they were prepared from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipelines.foundations.video import captions as text
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.seeding import seed_of

MANIFEST, CAPTIONS = "manifest.json", "captions.json"
CLIPS, LABELS, PROMPTS = "clips", "labels", "prompts"
SPLITS = ("train", "valid", "test")
TRAIN = SPLITS[0]


class Clips:
    """What `prepare` made.

    Attributes:
        dataset: its name in tables of scores.
        source: digits, games, footage or folder.
        frames: T of a clip.
        channels: C of a frame, 1 or 3.
        size: (H, W) in pixels.
        vocabulary: the words of the prompts; word 0 is padding, word 1 stands for unknown ones.
        length: L, words of a prompt.
        classes: what clips are told apart by -> names of its classes; in the order of the columns
            of the labels.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.dataset: str = manifest["dataset"]
        self.source: str = manifest["source"]
        self.frames: int = manifest["frames"]
        self.channels: int = manifest["channels"]
        self.size: tuple[int, int] = (manifest["size"][0], manifest["size"][1])
        self.vocabulary: list[str] = manifest["vocabulary"]
        self.length: int = manifest["length"]
        self.classes: dict[str, list[str]] = {
            entry["name"]: entry["classes"] for entry in manifest["labels"]
        }
        self._stored: dict[str, dict[str, Tensor]] = {}

    @staticmethod
    def load(folder: Path) -> Clips:
        """Open the output of `prepare`; clips are read when they are asked for.

        Raises:
            UserError: the folder holds no prepared clips.
        """
        if not (folder / MANIFEST).is_file():
            raise UserError(f"{folder} holds no prepared clips: {MANIFEST} is missing")
        return Clips(folder, read_json(folder / MANIFEST))

    def count(self, split: str) -> int:
        """Clips in a split."""
        return len(self._read(split)[LABELS])

    def captions(self, split: str) -> list[str]:
        """The caption of each clip of a split, in words."""
        self._read(split)
        return list(read_json(self.folder / CAPTIONS)[split])

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Training clips, a pure function of (seed, step); each epoch is a new permutation.

        Args:
            seed: of the order.
            step: 1, 2, …; the last batch of an epoch runs on into the next.

        Returns:
            x (B, T, C, H, W) in [-1, 1], prompts (B, L) int64, and the clips' places in
            `fixed("train")`, (B,) int64.
        """
        stored, first = self._read(TRAIN), (step - 1) * size
        count = len(stored[CLIPS])
        epochs = range(first // count, (first + size - 1) // count + 1)
        order = torch.cat([_permutation(seed, epoch, count) for epoch in epochs])
        index = order[first % count :][:size]
        return normal(stored[CLIPS][index]), stored[PROMPTS][index], index

    def fixed(self, split: str) -> tuple[list[str], Tensor, Tensor, Tensor]:
        """All clips of a split, in order; kinds of clips take turns, so a part is balanced too.

        Returns:
            ids, x (N, T, C, H, W) in [-1, 1], prompts (N, L) int64, and labels (N, K) int64, one
            column for each of `classes`.
        """
        stored = self._read(split)
        ids = [f"{split}-{place:05d}" for place in range(len(stored[CLIPS]))]
        return ids, normal(stored[CLIPS]), stored[PROMPTS], stored[LABELS]

    def kinds(self) -> tuple[list[str], Tensor, Tensor]:
        """The kinds of training clips: what can be asked for, by caption and labels.

        Returns:
            captions, prompts (M, L) and labels (M, K), by rising labels, each pair once.
        """
        rows = self._read(TRAIN)[LABELS].tolist()
        captions = self.captions(TRAIN)
        pairs = sorted({(tuple(row), each) for row, each in zip(rows, captions, strict=True)})
        asked = [caption for _, caption in pairs]
        return asked, self.encode(asked), torch.tensor([row for row, _ in pairs])

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Captions as prompts (N, L); "" is the empty prompt, all padding."""
        return torch.from_numpy(text.encode(captions, self.vocabulary, self.length))

    def _read(self, split: str) -> dict[str, Tensor]:
        if split not in SPLITS:
            raise UserError(f"{self.dataset} has no split '{split}'; it has {', '.join(SPLITS)}")
        if split not in self._stored:
            self._stored[split] = load_file(self.folder / f"{split}.safetensors")
        return self._stored[split]


def normal(clips: Tensor) -> Tensor:
    """Stored clips (N, T, H, W, C) uint8 as a network takes them: (N, T, C, H, W) in [-1, 1]."""
    return (clips.float() / 127.5 - 1).movedim(-1, -3).contiguous()


def pixels(x: Tensor) -> Tensor:
    """The way back from `normal`, for clips that a network made; what is out of range is cut."""
    return ((x.movedim(-3, -1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).contiguous()


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> Tensor:
    """The order of an epoch."""
    generator = torch.Generator().manual_seed(seed_of("clips", seed, epoch))
    return torch.randperm(count, generator=generator)
