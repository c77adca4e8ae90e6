"""What calibrate keeps of the teachers, as training reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.core.errors import UserError
from stages.core.files import read_json

RANDOM = "-random"
"""Ending of the name of a teacher that was never trained."""


@dataclass(frozen=True)
class Memory:
    """One teacher's answers to all training windows, by window.

    Attributes:
        maps: "output" (N, T', C, H, W), "latent", "high" or "low" (N, K, h, w); those asked for.
        energy: variances over the training windows and points: `output_low`, `output_high`,
            `latent`, `latent_low`, `latent_high`, and `high` and `low` of the branches.
    """

    maps: dict[str, Tensor]
    energy: dict[str, float]


@dataclass(frozen=True)
class Cache:
    """The teachers an arm learns from, and where its bands part.

    Attributes:
        cutoff: largest wavenumber of the low band, in waves per width.
    """

    cutoff: float
    teachers: dict[str, Memory]


def read(folder: Path, teachers: Sequence[str], keys: Sequence[str], device: torch.device) -> Cache:
    """Read what an arm needs of calibrate's folder.

    Raises:
        UserError: a teacher is not there, or has no such maps.
    """
    from safetensors import safe_open

    bands: dict[str, Any] = read_json(folder / "bands.json")
    found = {}
    for name in teachers:
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in folder.glob("*.safetensors")))
            raise UserError(f"params.yaml: unknown teacher '{name}'; calibrate keeps: {there}")
        with safe_open(path, "pt") as file:
            lacking = sorted(set(keys) - set(file.keys()))
            if lacking:
                raise UserError(
                    f"params.yaml: the teacher '{name}' has no {' and no '.join(lacking)} branch; "
                    "take one with attention"
                )
            maps = {key: file.get_tensor(key).to(device) for key in keys}
        found[name] = Memory(maps, bands["energy"][name])
    return Cache(bands["cutoff"], found)
