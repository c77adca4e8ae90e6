"""A small evaluation: short fields, untrained nets, and the stage run on them."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipelines.sdkd import evaluate
from pipelines.sdkd.data import MANIFEST, SPLITS
from pipelines.sdkd.model import build
from stages.core import environment
from stages.core import params as core
from stages.core.dag import Node
from stages.core.files import write_json, write_text
from stages.core.job import Inputs
from tests.jobs import for_tests

SHAPE = {"history": 3, "horizon": 4, "channels": 1, "height": 16, "width": 16}
UNET = {"net": "unet", "width": 2, "depth": 1, "latent": 4, "shape": SHAPE}
MIXER = {"net": "mixer", "patch": 4, "latent": 4, "tokens": 4, "blocks": 1, "shape": SHAPE}
SIMVP = {
    "net": "simvp", "hidden_s": 2, "layers_s": 2, "hidden_t": 4, "layers_t": 2, "mlp_ratio": 1.0,
    "drop_path": 0.0, "shape": SHAPE,
}  # fmt: skip
ALTERNET = SIMVP | {"net": "alternet", "heads": 1, "mode": "parallel"}
TEACHERS = {"alternet": ALTERNET, "simvp": SIMVP}
STUDENTS = {"unet": UNET, "mixer": MIXER}
VARIANTS = {
    "none": {"students": ["unet", "mixer"]},
    "sdkd": {"students": ["unet", "mixer"]},
    "output": {"students": ["unet"]},
}
COUNTS = {"train": 4, "valid": 2, "test": 5}
CUTOFF = 3.0
SEARCH = "student,rate,lambda,alpha,valid_mse,steps,valid_mse_seed0\nunet,1,0.1,1,0.5,3,0.5\n"
VALUES = {
    "evaluate": {
        "batch_size": 2,
        "bands": [0.0, 3.0, 12.0],
        "examples": {"student": "unet", "item": 1, "leads": [1, 4]},
    },
    "distill": {"variants": VARIANTS, "seeds": ["0-1"]},
    "calibrate": {"teacher": "alternet"},
}


def fields(folder: Path) -> None:
    """Drifting waves of two lengths with noise, in raw units far from 0 and 1."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(16) / 16
    for split in SPLITS:
        count = COUNTS[split]
        shift = torch.rand(count, generator=generator)[:, None, None, None]
        time = torch.arange(7)[None, :, None, None] / 10
        x, y = place[None, None, None, :], place[None, None, :, None]
        value = torch.sin(2 * math.pi * (x + y + shift + time))
        value = value + 0.3 * torch.cos(2 * math.pi * (5 * x - 4 * y + 2 * time + shift))
        value = 5 * value + 2 + 0.1 * torch.randn(count, 7, 16, 16, generator=generator)
        save_file({"fields": value[:, :, None].contiguous()}, folder / f"{split}.safetensors")
    manifest = {
        "dataset": "waves", "history": 3, "horizon": 4, "channels": 1, "size": [16, 16],
        "mean": [2.0], "std": [3.7], "low": -5.0, "high": 9.0, "unit": "vorticity", "stride": 1,
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)


def fill(folder: Path, config: dict, seed: int) -> None:
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    net = build(config)
    state = {k: v.contiguous() for k, v in net.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    write_json(folder / "config.json", net.config)


def made(root: Path) -> Path:
    """A project's work folder before evaluation."""
    work = root / "work/sdkd"
    fields(work / "prepare")
    for i, (name, config) in enumerate(TEACHERS.items()):
        fill(work / "teach" / name, config, i)
    (work / "calibrate").mkdir()
    write_json(work / "calibrate/bands.json", {"cutoff": CUTOFF})
    for i, (variant, arm) in enumerate(VARIANTS.items()):
        write_text(work / "tune" / variant / "search.csv", SEARCH)
        for student in arm["students"]:
            for seed in (0, 1):
                place = work / "distill" / variant / "0-1" / student / f"seed{seed}"
                fill(place, STUDENTS[student], 10 * i + seed + 5)
    return root


def parameters(**changes) -> evaluate.Params:
    values = {"sdkd": core.merge(VALUES, changes)}
    return core.build(evaluate.Params, values, "sdkd", "evaluate")


def run(root: Path, out: Path, params: evaluate.Params | None = None) -> Path:
    """Run the stage; give `out`."""
    inputs = tuple(
        f"work/sdkd/{name}" for name in ("prepare", "teach", "calibrate", "tune", "distill")
    )
    node = Node("sdkd", "evaluate", None, None, inputs, (), ("work/sdkd/evaluate",))
    out.mkdir()
    environment.make_deterministic(1)
    with for_tests(root, node) as job:
        evaluate.run(params or parameters(), Inputs(root, node), out, job)
    return out


def part(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table
