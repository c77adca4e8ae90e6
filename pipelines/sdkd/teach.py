"""Train the teachers: SimVP's shell with convolution and attention, or with convolution alone.

Published (SDKD, section 4): Adam at a fixed 1e-4, 300 epochs, the checkpoint best on validation.
The shorter profiles take a larger rate that falls along a cosine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from safetensors.torch import save

from pipelines.sdkd.data import Fields
from pipelines.sdkd.model import TeacherNet, build, config
from pipelines.sdkd.names import net as reading_name
from pipelines.sdkd.training import shape_of, step_loss, valid_loss
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import write_bytes, write_json, write_text
from stages.core.seeding import seed_all, seed_of
from stages.teach import curves
from stages.teach.loop import TrainSpec, curve_csv, fit

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Params(core.Params):
    """`teachers`: the numbers of each network, by the name of its folder; `train`: likewise."""

    seed: int = Field(ge=0)
    teachers: Annotated[dict[str, TeacherNet], Field(min_length=1)]
    train: dict[str, TrainSpec]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Train each teacher and keep it as it was best on validation data."""
    if set(params.train) != set(params.teachers):
        raise UserError(
            f"params.yaml: sdkd.teach.train has {', '.join(params.train)}, but sdkd.teach.teachers "
            f"has {', '.join(params.teachers)}; each teacher needs one entry in both"
        )
    fields = Fields.load(inputs["prepare"])
    learnt: dict[str, list[dict[str, float]]] = {}
    for name, numbers in params.teachers.items():
        seed_all("teach", name, params.seed)
        model = build(config(numbers, shape_of(fields))).to(job.device)
        spec = params.train[name]
        result = fit(
            model,
            step_loss(fields, seed_of("teach", params.seed), spec.batch, job.device),
            spec,
            job=job,
            name=name,
            seed=params.seed,
            validate=valid_loss(fields, job.device),
            epoch_steps=max(1, fields.count("train") // spec.batch),
        )
        folder = out / name
        write_bytes(folder / "model.safetensors", save(result.best))
        write_json(folder / "config.json", model.config)
        write_text(folder / "curve.csv", curve_csv(result.curve))
        best = min(row["valid_loss"] for row in result.curve)
        training = {"steps": result.steps, "best_step": result.best_step, "valid_mse": best}
        write_json(folder / "training.json", training)
        learnt[reading_name(name)] = result.curve
    curves.show(
        out,
        learnt,
        ylabel="MSE in training variances",
        title="Learning curves of the teachers",
        caption="Mean squared error of the normalised forecast: over the validation windows, and "
        "over the training batches, smoothed.",
    )
