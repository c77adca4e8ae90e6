"""The calibration set: what the teacher saw and gave on its way from noise to clips."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipelines.foundations.video.teacher import Reader
from pipelines.foundations.video.text import Text
from stages.core.files import write_bytes
from stages.quantize.capture import Given, Records

SAMPLES, SALIENCE = "samples.safetensors", "salience.safetensors"


@dataclass(frozen=True)
class Samples:
    """
    Attributes:
        x: noisy clips (N, T, C, H, W).
        t: their time steps (N,).
        step: the same counted from 0 among the steps that were kept, (N,) int64.
        prompts: (N, L) int64.
        given: (N,), False for the branch of guidance that is not shown its prompt.
        target: what the teacher gave, like x.
    """

    x: Tensor
    t: Tensor
    step: Tensor
    prompts: Tensor
    given: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def save(self, folder: Path) -> None:
        tensors = {f.name: getattr(self, f.name).cpu().contiguous() for f in fields(self)}
        write_bytes(folder / SAMPLES, save(tensors))

    @staticmethod
    def load(folder: Path) -> Samples:
        return Samples(**load_file(folder / SAMPLES))

    def text(self, read: Reader, device: torch.device) -> Text:
        """The text of every sample; each prompt is read once."""
        unique, place = self.prompts.unique(dim=0, return_inverse=True)
        place, given = place.to(device), self.given.to(device)
        parts = [part[place] for part in read(unique.to(device))]
        asked, empty = parts
        mask = None
        if asked.mask is not None and empty.mask is not None:
            mask = torch.where(given[:, None], asked.mask, empty.mask)
        return Text(torch.where(given[:, None, None], asked.tokens, empty.tokens), mask)

    def records(self, text: Text, *, masked: bool) -> Records:
        """For `reconstruct` of a `Whole`, sample by sample.

        Args:
            text: of `self.text`.
            masked: whether the student is told which words fill up a prompt, as the teacher was.
        """
        mask = text.mask if masked else None
        records = Records()
        for i in range(len(self)):
            one = slice(i, i + 1)
            shown = None if mask is None else mask[one]
            records.inputs.append(Given((self.x[one], self.t[one], text.tokens[one], shown), {}))
            records.outputs.append(self.target[one])
        return records


class Whole(nn.Module):
    """A denoiser whose text comes as tensors, so that its calls can be recorded by sample."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, C, H, W), t (B,), tokens (B, L, E), mask (B, L) or None -> like x."""
        found: Tensor = self.denoiser(x, t, Text(tokens, mask))
        return found


@torch.no_grad()
def run(model: nn.Module, records: Records, batch: int, samples: list[int] | None = None) -> Tensor:
    """What a `Whole` gives for some records, all by default: (n, T, C, H, W)."""
    device = next(model.parameters()).device
    chosen = list(range(len(records))) if samples is None else samples
    parts = [chosen[k : k + batch] for k in range(0, len(chosen), batch)]
    return torch.cat([records.batch(part, device)[0].call(model) for part in parts])
