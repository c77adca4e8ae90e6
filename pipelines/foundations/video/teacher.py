"""A teacher as other stages and papers see it: denoiser, text, schedule, and how to get clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from pipelines.foundations.video import diffusion
from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.text import Text, Words
from stages.core.errors import UserError
from stages.core.files import read_json, write_bytes, write_json

ABOUT, WORDS = "teacher.json", "words.safetensors"
TRANSFORMER, SCHEDULER = "transformer", "scheduler"


class Reader(Protocol):
    """What turns prompts into text."""

    def __call__(self, prompts: Tensor) -> tuple[Text, Text]:
        """Prompts (B, L) int64 -> their text, and that of as many empty prompts."""
        ...


@dataclass
class Teacher:
    """
    Attributes:
        denoiser: the network that papers compress; names of its layers start with "net.".
        noising: diffusers' scheduler.
        read: prompts (B, L) int64 -> their text, and that of as many empty prompts.
        shape: (T, C, H, W) of what the denoiser works on.
        decode: that -> clips (B, T, C, H, W) in [-1, 1].
        about: what `teacher.json` says.
    """

    denoiser: Denoiser
    noising: Any
    read: Reader
    shape: tuple[int, int, int, int]
    decode: Callable[[Tensor], Tensor]
    about: dict[str, Any]

    @torch.no_grad()
    def generate(
        self,
        names: list[str],
        prompts: Tensor,
        *,
        steps: int,
        guidance: float,
        seed: int,
        batch: int,
        denoiser: torch.nn.Module | None = None,
        form: Callable[[Tensor], Tensor] = lambda clips: clips,
    ) -> Tensor:
        """Clips for prompts, (N, T, C, H, W) in [-1, 1], on the CPU.

        Args:
            names: of the clips; noise is drawn for each by its name.
            prompts: (N, L) int64.
            batch: clips at once; decides the speed alone, but for the last digits.
            denoiser: to be used in place of the teacher's own, such as a compressed one.
            form: what becomes of each batch at once, such as making large clips smaller.
        """
        used = self.denoiser if denoiser is None else denoiser
        place = next(used.parameters())
        made = []
        for start in range(0, len(names), batch):
            some = slice(start, start + batch)
            noise = diffusion.noise_for(names[some], self.shape, seed).to(place)
            text, empty = self.read(prompts[some].to(place.device))
            x = diffusion.sample(used, self.noising, text, empty, noise, steps, guidance)
            made.append(form(self.decode(x).float().cpu()))
        return torch.cat(made)


def keep(
    folder: Path, denoiser: Denoiser, noising: Any, words: Words, about: dict[str, Any]
) -> None:
    """Write a trained teacher, transformer and scheduler as diffusers' pipelines keep them.

    Args:
        about: holds `shape`, [T, C, H, W].
    """
    denoiser.net.save_pretrained(folder / TRANSFORMER)
    noising.save_pretrained(folder / SCHEDULER)
    write_bytes(folder / WORDS, save({"table": words.table}))
    write_json(folder / ABOUT, {**about, "kind": "trained"})


def load(folder: Path, device: torch.device | None = None, root: Path | None = None) -> Teacher:
    """Open what `teach` left in `work/foundations/video/teach/<name>`, in eval mode.

    Args:
        root: the project's, from which a published model's folder is named.

    Raises:
        UserError: nothing of the kind is there, or a published model cannot be had.
    """
    if not (folder / ABOUT).is_file():
        raise UserError(f"{folder} holds no teacher: {ABOUT} is missing; `dvc repro` makes it")
    about = read_json(folder / ABOUT)
    if about["kind"] == "published":
        from pipelines.foundations.video import published

        return published.load(about, device, root or Path())
    words = Words(load_file(folder / WORDS)["table"])
    denoiser = Denoiser(_transformer(folder / TRANSFORMER)).eval().requires_grad_(False)

    def read(prompts: Tensor) -> tuple[Text, Text]:
        return words.encode(prompts), words.encode(torch.zeros_like(prompts))

    frames, channels, height, width = about["shape"]
    return Teacher(
        denoiser=denoiser.to(device),
        noising=_scheduler(folder / SCHEDULER),
        read=read,
        shape=(frames, channels, height, width),
        decode=lambda x: x.clamp(-1, 1),
        about=about,
    )


def _transformer(folder: Path) -> Any:
    """A transformer of whatever class its config names."""
    import diffusers

    name = read_json(folder / "config.json")["_class_name"]
    return getattr(diffusers, name).from_pretrained(
        folder, local_files_only=True, low_cpu_mem_usage=False
    )


def _scheduler(folder: Path) -> Any:
    import diffusers

    name = read_json(folder / "scheduler_config.json")["_class_name"]
    return getattr(diffusers, name).from_pretrained(folder, local_files_only=True)
