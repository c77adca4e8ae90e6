"""Small nets and made-up fields for tests of SDKD's learning stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipelines.sdkd import calibrate
from pipelines.sdkd.model import build
from stages.core.files import write_json
from stages.core.seeding import seed_of

SHAPE = {"history": 3, "horizon": 3, "channels": 2, "height": 16, "width": 16}
SHELL = {"hidden_s": 4, "layers_s": 2, "hidden_t": 12, "layers_t": 2, "mlp_ratio": 1.5,
         "drop_path": 0.3}  # fmt: skip
TEACHERS: dict[str, dict[str, Any]] = {
    "alternet": {"net": "alternet", **SHELL, "heads": 2, "mode": "parallel"},
    "alternet_serial": {"net": "alternet", **SHELL, "heads": 2, "mode": "serial"},
    "simvp": {"net": "simvp", **SHELL},
}
STUDENTS: dict[str, dict[str, Any]] = {
    "unet": {"net": "unet", "width": 4, "depth": 2, "latent": 3},
    "resnet": {"net": "resnet", "latent": 3, "hidden": 5, "blocks": 2},
    "mixer": {"net": "mixer", "patch": 4, "latent": 3, "tokens": 6, "blocks": 2},
}
ALL = {**TEACHERS, **STUDENTS}
SPEC: dict[str, Any] = {
    "steps": 6, "epochs": None, "batch": 4, "optimizer": "adam", "lr": 5e-3, "weight_decay": 0.0,
    "schedule": "cosine", "warmup": 2, "plateau_patience": 5, "plateau_threshold": 0.0,
    "clip": 1.0, "ema": 0.0, "validate_every": 3,
}  # fmt: skip


class Waves:
    """Stands in for prepared fields: travelling waves, a pure function of the window's number."""

    history, horizon, channels, size = 3, 3, 2, (16, 16)
    dataset, unit = "waves", ""
    mean, std, low, high = 0.0, 1.0, -3.0, 3.0

    def __init__(self) -> None:
        self.counts = {"train": 10, "valid": 5, "test": 4}
        grid = torch.arange(16) / 16
        self.clips = {}
        for split, count in self.counts.items():
            generator = torch.Generator().manual_seed(seed_of(split))
            k = torch.randint(-3, 4, (count, 2, 4, 2), generator=generator).float()
            phase = 6.28 * torch.rand(count, 2, 4, generator=generator)
            t = torch.arange(6)[:, None, None, None, None, None]
            angle = k[..., 0, None, None] * grid[:, None] + k[..., 1, None, None] * grid
            waves = torch.cos(6.2832 * angle + phase[..., None, None] + 0.4 * t).mean(3)
            self.clips[split] = waves.transpose(0, 1).contiguous()

    def count(self, split: str) -> int:
        return self.counts[split]

    def fixed(self, split: str) -> tuple[list[str], Tensor, Tensor]:
        clips = self.clips[split]
        return [f"{split}-{n}" for n in range(len(clips))], clips[:, :3], clips[:, 3:]

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        index = torch.randperm(self.counts["train"], generator=generator)[:size]
        clips = self.clips["train"][index]
        return clips[:, :3], clips[:, 3:], index


def made(name: str, seed: int = 0) -> Any:
    """One of the small nets, every parameter random (fresh gains of one would hide errors)."""
    torch.manual_seed(seed)
    net = build({**ALL[name], "shape": SHAPE}).eval()
    for values in net.parameters():
        values.data += 0.1 * torch.randn_like(values)
    return net


def keep(folder: Path, name: str, seed: int = 0) -> Any:
    """Write one of the small nets as a stage would."""
    net = made(name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    write_json(folder / "config.json", net.config)
    return net


def calibrated(teach: Path, out: Path, job: Any, names: tuple[str, ...] = ("alternet",)) -> Path:
    """The output of calibrate for some of the teachers; its `Fields` must be patched."""
    for name in names:
        keep(teach / name, name)
    out.mkdir(parents=True, exist_ok=True)
    params = calibrate.Params(seed=0, batch=4, teacher="alternet", cutoff=0.5)
    inputs = {"prepare": out, "teach": teach}
    calibrate.run(params, inputs, out, job)  # type: ignore[arg-type]
    return out
