"""Small prepared clips, nets and judges as tests of teachers use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pipelines.foundations.video import diffusion
from pipelines.foundations.video.data import Clips, pixels
from pipelines.foundations.video.model import Factorised, Joint, Shape
from stages.core.files import write_bytes, write_json

FRAMES, SIDE, CLASSES = 3, 8, {"place": ["left", "right"], "shade": ["dim", "bright"]}
WORDS = ["<pad>", "<unknown>", "left", "right", "dim", "bright"]
SPEC: dict[str, Any] = {
    "steps": 4, "epochs": None, "batch": 4, "optimizer": "adam", "lr": 0.003,
    "weight_decay": 0.0, "schedule": "cosine", "warmup": 1, "plateau_patience": 5,
    "plateau_threshold": 0.0, "clip": 1.0, "ema": 0.5, "validate_every": 2,
}  # fmt: skip
SCHEDULE: dict[str, Any] = {
    "steps": 100, "betas": "squaredcos_cap_v2", "low": 0.001, "high": 0.2,
    "zero_terminal": False, "clip": True,
}  # fmt: skip
NETS: dict[str, dict[str, Any]] = {
    "latte": {"net": "latte", "width": 16, "heads": 2, "layers": 1, "patch": 4},
    "cogvideox": {"net": "cogvideox", "width": 16, "heads": 2, "layers": 1, "patch": 4},
}
JUDGE = {"channels": 4, "embed": 4, "dropout": 0.0}


def numbers(name: str, **changes: Any) -> Factorised | Joint:
    model = Factorised if name == "latte" else Joint
    return model.model_validate(NETS[name] | changes)


def shape(words: int = 3) -> Shape:
    return Shape(frames=FRAMES, channels=1, size=SIDE, words=words, text=8)


def scheduler(**changes: Any) -> Any:
    return diffusion.scheduler(diffusion.Schedule.model_validate(SCHEDULE | changes))


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def prepared(folder: Path, counts: tuple[int, int, int] = (16, 8, 8)) -> Path:
    """Clips of a bar on the left or the right, dim or bright, in the layout of `prepare`."""
    manifest = {
        "dataset": "bars", "source": "digits", "frames": FRAMES, "channels": 1,
        "size": [SIDE, SIDE], "vocabulary": WORDS, "length": 2,
        "labels": [{"name": k, "classes": v} for k, v in CLASSES.items()],
    }  # fmt: skip
    told = {}
    for place, (split, count) in enumerate(zip(("train", "valid", "test"), counts, strict=True)):
        labels = torch.stack([torch.arange(count) % 2, torch.arange(count) // 2 % 2], 1)
        x = torch.full((count, FRAMES, 1, SIDE, SIDE), -1.0)
        x[labels[:, 0] == 0, ..., : SIDE // 2] = 1.0
        x[labels[:, 0] == 1, ..., SIDE // 2 :] = 1.0
        x = torch.where((labels[:, 1] == 0)[:, None, None, None, None], x / 2 - 0.5, x)
        x = x + 0.05 * drawn(*x.shape, seed=place)
        data = {"clips": pixels(x), "labels": labels, "prompts": labels + torch.tensor([2, 4])}
        write_bytes(folder / f"{split}.safetensors", save(data))
        told[split] = [f"{CLASSES['place'][a]} {CLASSES['shade'][b]}" for a, b in labels.tolist()]
    write_json(folder / "captions.json", told)
    write_json(folder / "manifest.json", manifest)
    return folder


def clips(folder: Path) -> Clips:
    return Clips.load(prepared(folder))
