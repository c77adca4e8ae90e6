"""A quantized denoiser as `quantize` leaves it, and how other stages get it back."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from torch import nn

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.s2q_vdit.base import Base, empty
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.quantize import store

MODEL, BASE = "model.safetensors", "base.json"


def keep(folder: Path, denoiser: Denoiser, base: Base) -> int:
    """Write packed integers, densely: 3 bits take 3. Gives the size of the file in bytes."""
    write_json(folder / BASE, base.model_dump())
    return store.save(denoiser, folder / MODEL, dense=True)


def load(folder: Path, teacher: Denoiser) -> Denoiser:
    """A quantized copy of the teacher's denoiser, on its device; the teacher stays as it is.

    Args:
        folder: `work/s2q_vdit/quantize/<variant>/<seeds>/<bits>/seed<n>`.

    Raises:
        UserError: nothing of the kind is there, or it suits another network.
    """
    if not (folder / BASE).is_file():
        raise UserError(f"{folder} holds no quantized model: {BASE} is missing")
    base = Base.model_validate(read_json(folder / BASE))
    made = deepcopy(teacher)

    def part(name: str, kind: str, columns: int, rows: int) -> nn.Module:
        return empty(base, columns)

    store.load(made, folder / MODEL, part)
    return made.eval().requires_grad_(False)
