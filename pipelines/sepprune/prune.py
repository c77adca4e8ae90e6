"""Cut the dense separators by one arm's rule, then fine-tune what is left.

SepPrune (arXiv 2505.12079), sections 3.2 and 3.3: masks are learned with frozen weights, channels
go physically, the small net is fine-tuned. Every arm (but `sepprune_literal`, whose size is its
own rule's, and `dense_more`) is cut to one parameter budget, sees the same fine-tuning mixtures
for the same seed, and leaves snapshots after equal fine-tuning and after equal total updates.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field, model_validator
from safetensors.torch import save

from pipelines.sepprune import arms
from pipelines.sepprune.data import Speech
from pipelines.sepprune.model import load
from pipelines.sepprune.training import step_loss, valid_loss
from stages.calibrate.structure import count
from stages.core import params as core
from stages.core.files import read_json, write_bytes, write_json, write_text
from stages.core.seeding import seed_of
from stages.prune.search import SearchSpec
from stages.teach.loop import TrainSpec, curve_csv, fit

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

Updates = Annotated[int, Field(ge=0)]


class Finetune(core.Params):
    """How a cut net is trained on, and when it is looked at; an arm ends at its last snapshot.

    `train`: its length is what the longest arm but `scratch` takes.
    `at`: fine-tuning updates after which a snapshot is kept. `totals`: the same, counting also the
    updates that choosing channels took. `scratch_epochs`: further snapshots of the net trained
    from scratch, in epochs of `epoch_updates`, to see when it catches up.
    """

    train: TrainSpec
    at: Annotated[list[Updates], Field(min_length=1)]
    totals: list[Updates]
    epoch_updates: int = Field(ge=1)
    scratch_epochs: list[Annotated[int, Field(ge=1)]]


class Arm(core.Params):
    """One variant: how channels are picked, and for which backbones.

    `search` takes the place of the section's where an arm asks what one of its values is worth.
    """

    select: arms.Select
    backbones: Annotated[list[str], Field(min_length=1)]
    search: SearchSpec | None = None


class Params(core.Params):
    """All training here uses the dense training's loss, and a net from scratch its learning rate:
    fine-tuning's is too low for a net that knows nothing yet."""

    search: SearchSpec
    taylor_batches: int = Field(ge=1)
    finetune: Finetune
    drop_easy: Annotated[bool, core.Borrowed("teach.drop_easy")]
    dense: Annotated[dict[str, TrainSpec], core.Borrowed("teach.train")]
    variant: Arm

    @model_validator(mode="after")
    def _taught(self) -> Params:
        unknown = set(self.variant.backbones) - set(self.dense)
        if unknown:
            raise ValueError(
                f"variant.backbones: teach trains no {', '.join(sorted(unknown))}; "
                f"allowed: {', '.join(self.dense)}"
            )
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Params:
        length = self.finetune.train.length(self.finetune.epoch_updates)
        late = max([*self.finetune.at, *self.finetune.totals])
        if late > length:
            raise ValueError(f"finetune: a snapshot at {late} lies behind the last update {length}")
        if not {0, self.finetune.epoch_updates} <= set(self.finetune.at):
            raise ValueError("finetune.at must hold 0 and the epoch of epoch_updates: both scored")
        spent = max(self.masks.steps, self.taylor_batches)
        if self.finetune.totals and min(self.finetune.totals) < spent:
            raise ValueError(f"finetune.totals: choosing channels alone takes {spent} updates")
        return self

    @property
    def masks(self) -> SearchSpec:
        """How this arm's masks are learned."""
        return self.variant.search or self.search


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Cut and fine-tune each backbone of the variant once per seed."""
    speech = Speech.load(inputs["prepare"])
    for backbone in params.variant.backbones:
        for seed in job.seeds:
            # Written last, the list of snapshots also says that this unit is done.
            unit = job.unit(f"{backbone}-seed{seed}") / "result"
            if not (unit / "snapshots.json").is_file():
                _unit(params, inputs, job, speech, backbone, seed, unit)
            # A kill can leave a half-written hidden file behind.
            halves = shutil.ignore_patterns(".*")
            shutil.copytree(unit, out / backbone / f"seed{seed}", ignore=halves)


def snapshot_updates(finetune: Finetune, chosen: arms.Chosen, scratch: bool) -> list[int]:
    """Fine-tuning updates after which a snapshot is kept, increasing.

    The net from scratch is kept at both counts of its total: with the search that gave its widths,
    and without.
    """
    wanted = {*finetune.at, *(total - chosen.spent for total in finetune.totals)}
    if scratch:
        wanted |= {total - chosen.searched for total in finetune.totals}
        wanted |= {epoch * finetune.epoch_updates for epoch in finetune.scratch_epochs}
    return sorted(wanted)


def _unit(
    params: Params, inputs: Inputs, job: Job, speech: Speech, backbone: str, seed: int, unit: Path
) -> None:
    name, finetune = f"{backbone}-seed{seed}", params.finetune
    task = _task(params, inputs, job, speech, backbone, seed)
    chosen = arms.choose(params.variant.select, task, job)
    net = chosen.net
    _describe(task, chosen, unit)
    at = snapshot_updates(finetune, chosen, params.variant.select == "scratch")
    spec = finetune.train
    if params.variant.select == "scratch":
        spec = spec.model_copy(update={"lr": params.dense[backbone].lr})
    result = fit(
        net,
        _stream(params, speech, job, "fine-tuning", seed),
        # Nothing is scored behind the last snapshot.
        spec.model_copy(update={"steps": at[-1], "epochs": None}),
        job=job,
        name=f"{name}-finetune",
        seed=seed,
        validate=valid_loss(speech, job.device),
        snapshots=at,
        on_snapshot=lambda step, model: write_bytes(unit / _file(step), _bytes(model)),
    )
    write_text(unit / "curve.csv", curve_csv(result.curve))
    write_json(
        unit / "snapshots.json",
        [
            {
                "file": _file(step),
                "ft": step,
                "total": step + chosen.spent,
                "total_with_search": step + chosen.searched,
            }
            for step in at
        ],
    )


def _task(
    params: Params, inputs: Inputs, job: Job, speech: Speech, backbone: str, seed: int
) -> arms.Task:
    dense = load(inputs["teach"] / backbone).to(job.device)
    target = read_json(inputs["calibrate"] / "targets.json")[backbone]
    chosen = set(target["groups"])
    batches = inputs["calibrate"] / "batches.safetensors"
    return arms.Task(
        backbone=backbone,
        seed=seed,
        dense=dense,
        groups=[group for group in dense.groups() if group.name in chosen],
        budget=target["budget"],
        example=torch.zeros(1, speech.rate, device=job.device),
        calibration=arms.calibration_loss(
            batches, seed, params.masks.batch, job.device, params.drop_easy
        ),
        training=_stream(params, speech, job, "joint", seed),
        search=params.masks,
        taylor_batches=params.taylor_batches,
        weights_lr=params.finetune.train.lr,
    )


def _stream(params: Params, speech: Speech, job: Job, purpose: str, seed: int) -> arms.Loss:
    """Loss on fresh mixtures; the same for every arm, and none that the teacher or a search saw."""
    spec = params.finetune.train
    return step_loss(speech, seed_of(purpose, seed), spec.batch, job.device, params.drop_easy)


def _describe(task: arms.Task, chosen: arms.Chosen, unit: Path) -> None:
    """Write config.json and keep.json: what was kept, what it costs, what choosing it took."""
    macs, parameters = count(chosen.net, task.example)
    dense_macs, dense_parameters = count(task.dense, task.example)
    write_json(unit / "config.json", chosen.net.config)
    write_json(
        unit / "keep.json",
        {
            "kept": {name: index.tolist() for name, index in chosen.keep.items()},
            "widths": {name: len(index) for name, index in chosen.keep.items()},
            "full": {group.name: group.size for group in task.groups},
            "parameters": parameters,
            "macs_per_second": macs,
            "dense_parameters": dense_parameters,
            "dense_macs_per_second": dense_macs,
            "jaccard_of_two_draws": chosen.jaccard,
            "updates_spent": chosen.spent,
            "updates_searched": chosen.searched,
        },
    )


def _file(step: int) -> str:
    return f"u{step:05d}.safetensors"


def _bytes(model: torch.nn.Module) -> bytes:
    return save({name: value.contiguous() for name, value in sorted(model.state_dict().items())})
