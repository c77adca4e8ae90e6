"""Keeps a share of the hidden units, by size or by order."""

from typing import Literal

from stages.core import params as core
from stages.core.files import read_json, write_json


class Variant(core.Params):
    by: Literal["size", "order"]


class Params(core.Params):
    share: float
    variant: Variant


def run(params, inputs, out, job):
    from safetensors.numpy import load_file

    weight = load_file(inputs["teach"] / "model.safetensors")["0.weight"][:, 0]
    order = abs(weight).argsort()[::-1] if params.variant.by == "size" else range(len(weight))
    for seed in job.seeds:
        file = job.unit(f"seed{seed}") / "keep.json"
        if not file.exists():
            kept = [int(i) for i in order][: int(len(weight) * params.share)]
            write_json(file, {"keep": kept, "seed": seed})
        write_json(out / f"seed{seed}.json", read_json(file))
