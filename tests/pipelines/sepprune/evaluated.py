"""A small evaluation: synthetic voices, untrained nets, and the stage run on them."""

import math
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import save_file

from pipelines.sepprune import evaluate
from pipelines.sepprune.model import build
from stages.core import environment
from stages.core import params as core
from stages.core.dag import Node
from stages.core.files import write_json
from stages.core.job import Inputs
from tests.jobs import for_tests

RATE, LENGTH = 8000, 4000
SUDORMRF = {
    "name": "sudormrf", "voices": 2, "basis": 8, "kernel": 21, "stride": 10, "bottleneck": 4,
    "hidden": 6, "blocks": 2, "depth": 2,
}  # fmt: skip
AFRCNN = {
    "name": "afrcnn", "voices": 2, "basis": 8, "kernel": 21, "stride": 10, "bottleneck": 4,
    "hidden": 4, "iterations": 2, "depth": 2,
}  # fmt: skip
CONFIGS = {"sudormrf": SUDORMRF, "afrcnn": AFRCNN}
VARIANTS = {
    "sepprune": {"select": "concrete", "backbones": ["sudormrf", "afrcnn"]},
    "scratch": {"select": "scratch", "backbones": ["sudormrf", "afrcnn"]},
    "dense_more": {"select": "dense_more", "backbones": ["sudormrf"]},
}
SEARCH = {"sepprune": 20, "scratch": 0, "dense_more": 0}
VALUES = {
    "evaluate": {
        "batch_size": 3,
        "sdr_at": ["final"],
        "all_curves": True,
        "examples": {
            "backbone": "sudormrf",
            "items": {"seen": [0], "unseen": [1]},
            "seconds": 0.4,
            "spectrogram": {"window": 128, "hop": 80, "floor_db": 60.0},
        },
    },
    "prune": {"variants": VARIANTS, "seeds": ["0-1"], "finetune": {"epoch_updates": 10}},
}


class Voices:
    """Synthetic speech in place of what prepare leaves."""

    dataset, rate = "voices", RATE
    splits = ("train", "valid", "seen", "unseen")

    def fixed(self, split):
        count = {"seen": 5, "unseen": 4}[split]
        generator = torch.Generator().manual_seed(count)
        time = torch.arange(LENGTH) / RATE
        pitch = torch.tensor([110.0, 233.0])[:, None] * (1 + torch.arange(count)[:, None, None] / 9)
        sources = 0.1 * torch.sin(2 * math.pi * pitch * time).sign()
        sources = sources + 0.01 * torch.randn(count, 2, LENGTH, generator=generator)
        return [f"{split}-{i:03d}" for i in range(count)], sources.sum(1), sources

    def credit(self, split, index):
        return "Mixed from two voices." if split == "seen" else ""


def snapshots_of(variant: str) -> list[dict]:
    search = SEARCH[variant]
    searched = 20 if variant == "scratch" else search
    return [
        {"file": f"u{ft:05d}.safetensors", "ft": ft, "total": ft + search,
         "total_with_search": ft + searched}
        for ft in (0, 10, 20, 40)
    ]  # fmt: skip


def fill(folder: Path, config: dict, names: list[str], seed: int) -> None:
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    for name in names:
        net = build(config)
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / name)
    write_json(folder / "config.json", config)


def made(root: Path) -> Path:
    """A project's work folder before evaluation."""
    work = root / "work/sepprune"
    (work / "prepare").mkdir(parents=True)
    for i, (backbone, config) in enumerate(CONFIGS.items()):
        fill(work / "teach" / backbone, config, ["model.safetensors"], i)
    for variant, arm in VARIANTS.items():
        for backbone in arm["backbones"]:
            for seed in (0, 1):
                folder = work / "prune" / variant / "0-1" / backbone / f"seed{seed}"
                snapshots = snapshots_of(variant)
                fill(folder, CONFIGS[backbone], [s["file"] for s in snapshots], 10 + seed)
                write_json(folder / "snapshots.json", snapshots)
    return root


def parameters(**changes) -> evaluate.Params:
    values = core.merge({"sepprune": VALUES}, {"sepprune": changes})
    return core.build(evaluate.Params, values, "sepprune", "evaluate")


def run(root: Path, out: Path, params: evaluate.Params | None = None) -> Path:
    """Run the stage on the synthetic voices; give `out`."""
    inputs = tuple(f"work/sepprune/{name}" for name in ("prepare", "teach", "prune"))
    node = Node("sepprune", "evaluate", None, None, inputs, (), ("work/sepprune/evaluate",))
    out.mkdir()
    environment.make_deterministic(1)
    with pytest.MonkeyPatch.context() as patch, for_tests(root, node) as job:
        patch.setattr(evaluate.Speech, "load", staticmethod(lambda folder: Voices()))
        evaluate.run(params or parameters(), Inputs(root, node), out, job)
    return out


def part(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def scored(variant, condition, seed, value, **changes) -> dict:
    return {
        "paper": "sepprune", "backbone": "sudormrf", "dataset": "seen", "variant": variant,
        "condition": condition, "seed": seed, "item": "a", "metric": "si_sdri", "value": value,
        "unit": "dB", "direction": "higher", "censored": False, **changes,
    }  # fmt: skip


def a_table():
    curves = {
        ("sepprune", 0): [1.0, 6.0, 8.0],
        ("sepprune", 1): [2.0, 9.0, 9.5],
        ("scratch", 0): [-5.0, 1.0, 7.0],
        ("scratch", 1): [-5.0, 1.0, 7.0],
    }
    rows = [scored("dense", "", 0, 10.0)]
    for (variant, seed), values in curves.items():
        rows += [
            scored(variant, f"ft={ft}", seed, value)
            for ft, value in zip((0, 10, 40), values, strict=True)
        ]
        rows.append(scored(variant, "one_epoch", seed, values[1]))
        rows.append(scored(variant, "final", seed, values[2]))
    return pandas.DataFrame(rows)
