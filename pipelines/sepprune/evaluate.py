"""Scores of the teachers and of every pruned net, before, during and after fine-tuning.

The headline metric is SI-SDRi on mixtures of speakers heard in training (`seen`); speakers never
heard are a second test set. Conditions: `before` (no fine-tuning yet), `one_epoch` (after as many
updates as `prune.finetune.epoch_updates` calls an epoch), `final` (the largest total of updates
at which every arm of the network has a snapshot, mask search and calibration included), and for
the curves `ft=<n>` (fine-tuning updates) and `total=<n>` (all updates). A teacher's is empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipelines.sepprune import examples, pictures, summary
from pipelines.sepprune.data import Speech
from pipelines.sepprune.model import load
from pipelines.sepprune.summary import DENSE, METHOD, STAGES, Stage
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.progress import Progress
from stages.core.results import read_scores, write_curve, write_metrics, write_scores
from stages.evaluate import folders, tables
from stages.evaluate.convergence import largest_common
from stages.evaluate.separation import Pairs, improvement, of_mixture, sdr_pairs, si_sdr_pairs

if TYPE_CHECKING:
    from pandas import DataFrame

    from stages.core.job import Inputs, Job

TESTS = ("seen", "unseen", "test")
MEASURES: dict[str, Pairs] = {"si_sdri": si_sdr_pairs, "sdri": sdr_pairs}


class Params(core.Params):
    """`batch_size` decides the speed alone.

    `sdr_at`: conditions where SDRi is scored too, which costs as much as a forward pass.
    `all_curves`: score every snapshot on every test set; else the sets beside the first (that is,
    unseen speakers) only before fine-tuning, after one epoch and at the end.
    """

    batch_size: int = Field(ge=1)
    sdr_at: list[Stage]
    all_curves: bool
    examples: examples.Examples
    variants: Annotated[dict[str, dict[str, Any]], core.Borrowed("prune.variants")]
    seeds: Annotated[list[str], core.Borrowed("prune.seeds")]
    epoch_updates: Annotated[int, core.Borrowed("prune.finetune.epoch_updates")]

    @model_validator(mode="after")
    def _method(self) -> Params:
        there = self.variants.get(METHOD, {}).get("backbones", [])
        if self.examples.backbone not in there:
            raise ValueError(
                f"examples.backbone is '{self.examples.backbone}', but prune.variants.{METHOD} "
                f"has the backbones {', '.join(there) or '(none)'}"
            )
        return self


@dataclass(frozen=True)
class Arm:
    """One trained net at several moments.

    Attributes:
        folder: holds config.json and the weights.
        snapshots: file of weights -> the conditions under which its scores stand.
        searched: updates that choosing its channels took.
    """

    variant: str
    backbone: str
    seed: int
    folder: Path
    snapshots: dict[str, tuple[str, ...]]
    searched: int

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.backbone}-seed{self.seed}"

    def net(self, condition: str) -> nn.Module:
        """The net as it is under `condition`."""
        return load(self.folder, next(f for f, c in self.snapshots.items() if condition in c))


class TestSet:
    """Fixed mixtures, and what doing nothing scores on them."""

    def __init__(self, speech: Speech, split: str) -> None:
        # A published set that stands in for our own two is known by its name.
        self.split, self.dataset = split, speech.dataset if split == "test" else split
        self.items, self.mix, self.sources = speech.fixed(split)
        self.start: dict[str, Tensor] = {}

    def gain(self, metric: str, estimates: Tensor) -> Tensor:
        """Improvement over the mixture in dB, (N,), of estimates (N, 2, T)."""
        measure = MEASURES[metric]
        if metric not in self.start:
            self.start[metric] = of_mixture(measure, self.mix, self.sources)
        return improvement(measure, estimates, self.sources, self.mix, self.start[metric])


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Score all nets, sum the scores up, draw them, and pick what can be listened to."""
    import pandas

    speech = Speech.load(inputs["prepare"])
    tests = [TestSet(speech, split) for split in TESTS if split in speech.splits]
    arms = pruned(inputs["prune"], params)
    arms += [teacher(inputs["teach"], name) for name in sorted({arm.backbone for arm in arms})]
    examples.check(params.examples, {test.split: len(test.items) for test in tests})
    parts = []
    with job.progress(sum(len(arm.snapshots) for arm in arms), "scoring") as bar:
        for arm in arms:
            path = job.unit(arm.name) / "scores.parquet"
            if path.is_file():
                bar.advance(len(arm.snapshots), arm.name)
            else:
                write_scores(path, scores(arm, tests, params, job, bar))
            parts.append(read_scores(path))
    table = pandas.concat(parts)
    searched = {(arm.variant, arm.backbone, arm.seed): arm.searched for arm in arms}
    headline = tests[0].dataset
    table = pandas.concat([
        table,
        *summary.recovery(table, job.log),
        *summary.convergence(table, headline, searched, params.epoch_updates),
    ])  # fmt: skip
    write_scores(out / "scores.parquet", table)
    write_metrics(out / "metrics.json", summary.metrics(table, headline))
    drawn = tests if params.all_curves else tests[:1]
    curves = summary.curves(table, [test.dataset for test in drawn])
    for (backbone, variant), curve in curves.items():
        write_curve(out / f"curves/recovery-{backbone}-{variant}.csv", curve)
    pictures.save_all(out, table, curves, headline, [DENSE, *params.variants])
    first = {(arm.variant, arm.backbone): arm for arm in reversed(arms)}  # of its seeds
    heard = params.examples.backbone
    nets = {DENSE: first[DENSE, heard].net(""), METHOD: first[METHOD, heard].net("final")}
    examples.write(params.examples, speech, nets, out)


def pruned(folder: Path, params: Params) -> list[Arm]:
    """All pruned nets that params.yaml names.

    Raises:
        UserError: one is missing, one is there that params.yaml does not name, or one lacks a
            snapshot under one of the conditions.
    """
    found: list[tuple[str, str, int, Path, list[dict[str, Any]]]] = []
    for variant, seeds in folders.runs(folder, params.variants, params.seeds).items():
        backbones = params.variants[variant]["backbones"]
        for seed, place in seeds:
            folders.same_folders(place, backbones)
            for backbone in backbones:
                unit = place / backbone / f"seed{seed}"
                if not (unit / "snapshots.json").is_file():
                    shown = "/".join(unit.parts[-4:])
                    raise UserError(f"{shown} has no snapshots.json; `dvc repro` makes it")
                found.append((variant, backbone, seed, unit, read_json(unit / "snapshots.json")))
    finals = {
        name: largest_common([[s["total"] for s in f[4]] for f in found if f[1] == name])
        for name in {f[1] for f in found}
    }
    return [
        Arm(
            variant,
            backbone,
            seed,
            unit,
            _named(variant, backbone, snapshots, params.epoch_updates, finals[backbone]),
            snapshots[0]["total_with_search"] - snapshots[0]["ft"],
        )
        for variant, backbone, seed, unit, snapshots in found
    ]


def _named(
    variant: str, backbone: str, snapshots: list[dict[str, Any]], epoch: int, final: int | None
) -> dict[str, tuple[str, ...]]:
    """Give each snapshot its conditions; each is loaded and scored only once."""
    wanted = {"before": ("ft", 0), "one_epoch": ("ft", epoch), "final": ("total", final)}
    for name, (key, updates) in wanted.items():
        if updates not in [snapshot[key] for snapshot in snapshots]:
            what = "totals" if key == "total" else "at"
            raise UserError(
                f"{variant} of {backbone} has no snapshot for '{name}'; every arm needs one after "
                f"the same updates: see params.yaml, sepprune.prune.finetune.{what}"
            )
    return {
        s["file"]: (
            *(name for name, (key, updates) in wanted.items() if s[key] == updates),
            f"ft={s['ft']}",
            f"total={s['total']}",
        )
        for s in snapshots
    }


def teacher(folder: Path, backbone: str) -> Arm:
    """The dense net; there is one per backbone, whatever the seeds of the arms."""
    return Arm(DENSE, backbone, 0, folder / backbone, {"model.safetensors": ("",)}, 0)


def scores(arm: Arm, tests: list[TestSet], params: Params, job: Job, bar: Progress) -> DataFrame:
    """The table of scores of one arm: its snapshots on the test sets, each separated once."""
    import pandas

    parts = []
    for file, conditions in arm.snapshots.items():
        net = load(arm.folder, file).to(job.device)
        named = tuple(c for c in conditions if c in ("", *STAGES))
        also = tuple(c for c in named if c in ("", *params.sdr_at))
        for test in tests:
            wanted = conditions if params.all_curves or test is tests[0] else named
            if not wanted:
                continue
            estimates = separate(net, test.mix, params.batch_size)
            for metric, under in (("si_sdri", wanted), ("sdri", also)):
                gain = test.gain(metric, estimates).numpy() if under else None
                parts += [
                    tables.rows(
                        gain, test.items, unit="dB", direction="higher", paper=job.paper,
                        backbone=arm.backbone, dataset=test.dataset, variant=arm.variant,
                        condition=condition, seed=arm.seed, metric=metric,
                    )
                    for condition in under
                ]  # fmt: skip
        bar.advance(1, arm.name)
    return pandas.concat(parts)


def separate(net: nn.Module, mix: Tensor, batch_size: int) -> Tensor:
    """The net's estimates for mixtures (N, T): (N, 2, T), on the CPU."""
    device = next(net.parameters()).device
    with torch.inference_mode():
        return torch.cat([net(part.to(device)).cpu() for part in mix.split(batch_size)])
