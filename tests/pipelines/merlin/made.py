"""A made-up series with gaps as `prepare` would leave it, and a job's folders around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from stages.core.files import write_json

VIEWS = ["mcar-25", "mcar-50", "mcar-75", "mcar-90"]
SENSORS, LENGTH, HISTORY, HORIZON = 5, 400, 6, 4
STID = {"embed": 4, "node": 4, "day": 4, "week": 4, "layers": 2, "dropout": 0.15}
NETS: dict[str, dict[str, Any]] = {
    "stid": STID,
    "tsmixer": {"blocks": 2, "inner": 8, "dropout": 0.05},
    "dsformer": {"samples": 2, "heads": 2, "layers": 1, "dropout": 0.15},
}
WEIGHTS = {
    "forecast": 2.0, "teacher": 2.0, "contrast": 1.0, "temperature": 1.0, "full_epochs": 3,
    "decay": True, "apart": False,
}  # fmt: skip
TRAIN = {
    "steps": 6, "epochs": None, "batch": 4, "optimizer": "adam", "lr": 1e-3, "weight_decay": 1e-4,
    "schedule": "cosine", "warmup": 0, "plateau_patience": 5, "plateau_threshold": 0.05,
    "clip": 5.0, "ema": 0.0, "validate_every": 3,
}  # fmt: skip


def config(name: str, **changes: Any) -> dict[str, Any]:
    """A small network's config for the made-up series."""
    fixed = {"sensors": SENSORS, "history": HISTORY, "horizon": HORIZON, "steps_per_day": 24}
    return {"name": name, **fixed, "mask": False, "code": 0, **NETS[name], **changes}


def series(prepare: Path, calibrate: Path, name: str = "waves") -> None:
    """Noisy daily waves of five sensors, hourly, with a tenth missing, under nested masks."""
    generator = torch.Generator().manual_seed(7)
    hours = torch.arange(LENGTH)[:, None] + 3 * torch.arange(SENSORS)
    values = 10 + 4 * torch.sin(2 * torch.pi * hours / 24)
    values += torch.randn(values.shape, generator=generator)
    observed = torch.rand(values.shape, generator=generator) > 0.1
    order = torch.rand(values.shape, generator=generator).argsort(0).argsort(0)
    masks = {f"mcar-{r}": (order >= LENGTH * r // 100).to(torch.uint8) for r in (25, 50, 75, 90)}
    (prepare / name).mkdir(parents=True)
    stored = {"values": values * observed, "observed": observed.to(torch.uint8)}
    save_file(stored, prepare / name / "series.safetensors")
    save_file(masks, prepare / name / "masks.safetensors")
    sensors = [
        {
            "name": f"s{i}",
            "unit": "K",
            "offset": 10.0,
            "scale": 3.0,
            "mean": 10.0,
            "error_scale": 1.0,
        }
        for i in range(SENSORS)
    ]
    manifest = {
        "name": name, "history": HISTORY, "horizon": HORIZON, "steps_per_day": 24,
        "step_minutes": 60, "start": "2024-01-01T00:00:00", "unit": "K", "sensors": sensors,
        "bounds": {"train": [0, 240], "valid": [240, 320], "test": [320, 400]},
    }  # fmt: skip
    write_json(prepare / name / "manifest.json", manifest)
    write_json(calibrate / name / "views.json", VIEWS)
    views = {key: mask[:320].contiguous() for key, mask in masks.items()}
    save_file(views, calibrate / name / "views.safetensors")
