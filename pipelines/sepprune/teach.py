"""Train the dense separators: the networks that are pruned later.

Published setting (SepPrune, section 4): Adam 1e-3, gradient clipping at 5, PIT with negative SNR,
the learning rate halved on a plateau. Here the plateau is judged by an absolute threshold, since a
relative one of 1e-4 is a thousandth of a dB and noise alone resets its patience.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator
from safetensors.torch import save

from pipelines.sepprune.configs import checked
from pipelines.sepprune.data import Speech
from pipelines.sepprune.model import build
from pipelines.sepprune.names import NETS
from pipelines.sepprune.training import step_loss, valid_loss
from stages.core import params as core
from stages.core.files import write_bytes, write_json, write_text
from stages.core.seeding import seed_all
from stages.teach import curves
from stages.teach.loop import TrainSpec, curve_csv, fit

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Params(core.Params):
    """`backbones`: configuration of each dense network, by name. Mixtures are drawn on the fly, so
    `epoch_mixtures` says how many count as an epoch."""

    seed: int = Field(ge=0)
    drop_easy: bool
    epoch_mixtures: int = Field(ge=1)
    backbones: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    train: dict[str, TrainSpec]

    @model_validator(mode="after")
    def _known(self) -> Params:
        checked(self.backbones)
        if self.train.keys() != self.backbones.keys():
            raise ValueError(
                f"train has {', '.join(sorted(self.train))}, "
                f"backbones has {', '.join(sorted(self.backbones))}: both need the same networks"
            )
        return self


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Train one dense network per backbone and keep the one best on validation data."""
    speech = Speech.load(inputs["prepare"])
    learnt: dict[str, list[dict[str, float]]] = {}
    for name, config in params.backbones.items():
        seed_all("teach", name, params.seed)
        model = build({"name": name, **config}).to(job.device)
        spec = params.train[name]
        result = fit(
            model,
            step_loss(speech, params.seed, spec.batch, job.device, params.drop_easy),
            spec,
            job=job,
            name=name,
            seed=params.seed,
            validate=valid_loss(speech, job.device),
            epoch_steps=params.epoch_mixtures // spec.batch,
        )
        folder = out / name
        write_bytes(folder / "model.safetensors", save(result.best))
        write_json(folder / "config.json", {"name": name, **config})
        write_json(folder / "training.json", {"steps": result.steps, "best_step": result.best_step})
        write_text(folder / "curve.csv", curve_csv(result.curve))
        learnt[NETS.get(name, name)] = result.curve
    curves.show(
        out,
        learnt,
        ylabel="loss in dB, lower is better",
        title="Learning curves of the dense networks",
        caption="Validation: negative SI-SDR on fixed mixtures. Training: negative SNR, smoothed; "
        "half the mixture in each voice already has −3 dB.",
    )
