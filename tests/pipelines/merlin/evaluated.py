"""A small evaluation: a tiny prepared series, untrained nets, and the stage run on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipelines.merlin import evaluate
from pipelines.merlin.model import build
from stages.core import environment
from stages.core import params as core
from stages.core.dag import Node
from stages.core.files import write_json
from stages.core.job import Inputs
from tests.jobs import for_tests
from tests.pipelines.merlin.prepared import SENSORS, dataset, lay, make, roads

VIEWS = ["mcar-25", "mcar-50", "mcar-75", "mcar-90"]
MASKS = [*VIEWS, "mcar-60", "changing", "block-50"]
ARM = {"backbones": ["stid"], "datasets": ["roads"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "merlin": {**ARM, "hidden": True, "result": True, "contrast": True},
    "mixed_l1": ARM,
    "per_rate": {**ARM, "per_rate": True},
    "impute_linear": {**ARM, "input": "linear", "init": "frozen"},
    "mask_channel": {**ARM, "input": "mask"},
}
VALUES = {
    "calibrate": {"views": VIEWS},
    "distill": {"variants": VARIANTS, "seeds": ["0-1"]},
    "evaluate": {
        "batch_size": 8,
        "stride": 2,
        "blocks": 4,
        "mape_floor": 0.5,
        "masks": MASKS,
        "horizons": [1, 4],
        "by_horizon": ["merlin"],
        "example": {
            "dataset": "roads",
            "backbone": "stid",
            "window": 3,
            "sensor": "0001",
            "masks": ["complete", "mcar-75"],
            "variants": ["dense", "merlin"],
        },
    },
}
CONFIG = {
    "name": "stid", "sensors": SENSORS, "history": 6, "horizon": 4, "steps_per_day": 288,
    "mask": False, "code": 0, "embed": 4, "node": 4, "day": 4, "week": 4, "layers": 1,
    "dropout": 0.1,
}  # fmt: skip


def net(
    folder: Path, seed: int, kind: str = "zeros", names: tuple[str, ...] = ("all",),
    code: bool | None = None,
) -> None:  # fmt: skip
    """Leave what `distill` (or `teach`) would: untrained weights, and the record of a training."""
    folder.mkdir(parents=True)
    config = {**CONFIG, "mask": kind == "mask"}
    models, told = {}, names == ("all",) and code is not None
    for place, name in enumerate(names):
        torch.manual_seed(10 * seed + place)
        file = "model.safetensors" if name == "all" else f"model-{name}.safetensors"
        save_file({k: v.contiguous() for k, v in build(config).state_dict().items()}, folder / file)
        like = {"hidden_same": 0.8 + seed / 10, "hidden_other": 0.2 + seed / 10}
        like |= {"code_same": 0.7 + seed / 10, "code_other": seed / 10} if code else {}
        models[name] = {"file": file, "likeness": like if told else {}}
    write_json(folder / "config.json", config)
    write_json(folder / "training.json", {"arm": {"input": kind}, "models": models})


def made(root: Path) -> Path:
    """A project's work folder before evaluation."""
    data = roads()
    data[320:, 1][data[320:, 1] == 0] = 50.0  # the sensor of the example has no gap in its test
    lay(root, data)
    make(root, datasets={"roads": dataset()})
    work = root / "work/merlin"
    net(work / "teach/roads/stid", 99)
    for variant, arm in VARIANTS.items():
        for seed in (0, 1):
            names = tuple(VIEWS) if arm.get("per_rate") else ("all",)
            place = work / "distill" / variant / "0-1/roads/stid" / f"seed{seed}"
            net(place, seed, arm.get("input", "zeros"), names, arm.get("contrast", False))
    return root


def parameters(**changes: Any) -> evaluate.Params:
    values = core.merge({"merlin": VALUES}, {"merlin": changes})
    return core.build(evaluate.Params, values, "merlin", "evaluate")


def run(root: Path, out: Path, params: evaluate.Params | None = None) -> Path:
    """Run the stage; give `out`."""
    inputs = tuple(f"work/merlin/{name}" for name in ("prepare", "teach", "distill"))
    node = Node("merlin", "evaluate", None, None, inputs, (), ("work/merlin/evaluate",))
    out.mkdir()
    environment.make_deterministic(1)
    with for_tests(root, node) as job:
        evaluate.run(params or parameters(), Inputs(root, node), out, job)
    return out


def part(table: Any, **where: Any) -> Any:
    for column, value in where.items():
        table = table[table[column] == value]
    return table
