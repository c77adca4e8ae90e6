"""Measure the dense and the pruned separators where they would run: ONNX Runtime on a CPU.

SepPrune (arXiv 2505.12079) reports inference 1.08 to 1.13 times as fast on an A100, and up to
50.2 % less memory in training. MACs do not tell: 42 % fewer gave 1.09 there. So every figure here
is measured, on the exported network, and training memory on a training step.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pipelines.sepprune.names import NETS, label
from stages.bench import latency, record, training
from stages.bench.exhibits import Names, show
from stages.bench.machine import device, warn_if_busy
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.core.params import Borrowed
from stages.core.results import write_metrics, write_scores

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

Count = Annotated[int, Field(ge=1)]
LEARNING_RATE, CLIP = 1e-3, 5.0
"""Of the published fine-tuning; neither changes what a step costs."""
HEAVIEST = 12
"""Modules of each network in the table of times."""


class TrainStep(core.Params):
    """How a training step is measured: mixtures in a batch, untimed steps first, timed steps."""

    batch: Count
    warmup: Count
    repeats: Count


class Params(core.Params):
    """
    Attributes:
        variants: arms of prune to measure; the dense network is always measured.
        seeds: their seeds.
        seconds: of audio in one input.
        threads: numbers of threads of the runtime.
        rounds, repeats, warmup: see `stages.bench.latency.Plan`.
        tolerance: largest difference of the exported network's output from torch's, relative.
        cores: threads of torch in the training step.
    """

    variants: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    seconds: float = Field(gt=0)
    threads: Annotated[list[Count], Field(min_length=1)]
    rounds: Count
    repeats: Count
    warmup: int = Field(ge=0)
    tolerance: float = Field(gt=0, lt=1)
    train_step: TrainStep
    rate: Annotated[int, Borrowed("prepare.rate")]
    cores: Annotated[int, Borrowed("common.threads")]

    @property
    def samples(self) -> int:
        return round(self.seconds * self.rate)


@dataclass(frozen=True)
class Source:
    """A trained network in a stage's folder."""

    backbone: str
    variant: str
    seed: int
    folder: Path
    weights: str

    @property
    def name(self) -> str:
        end = "" if self.variant == record.DENSE else f"-seed{self.seed}"
        return f"{self.backbone}-{self.variant}{end}"


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Export, measure, write."""
    sources = find(params, inputs["teach"], inputs["prune"], job.log)
    with job.progress(len(sources), "export") as bar:
        networks = []
        for source in sources:
            networks.append(export(source, params, out / "models"))
            job.track.model(source.name, networks[-1].file)
            bar.advance(note=source.name)
    measured = measure(params, sources, networks, job)
    warn_if_busy([timing for own in measured for timing in own.timings], job.log)
    counted = counts(params, inputs, measured, job.paper)
    write_results(params, measured, counted, out, job)
    where_time_goes(params, inputs, [s for s in sources if s.variant == record.DENSE], out)


def find(params: Params, teach: Path, prune: Path, log: logging.Logger) -> list[Source]:
    """The networks to measure: per backbone the teacher, then the last snapshot of each arm.

    Raises:
        UserError: no backbone has a network of some variant and seed.
    """
    sources, missing = [], {(v, s) for v in params.variants for s in params.seeds}
    for config in sorted(teach.glob("*/config.json")):
        backbone = config.parent.name
        sources.append(
            Source(backbone, record.DENSE, params.seeds[0], config.parent, "model.safetensors")
        )
        for variant in params.variants:
            for seed in params.seeds:
                lists = sorted(prune.glob(f"{variant}/*/{backbone}/seed{seed}/snapshots.json"))
                if not lists:
                    log.info("%s has no %s with seed %d", backbone, variant, seed)
                    continue
                last = max(read_json(lists[0]), key=lambda snapshot: snapshot["ft"])
                sources.append(Source(backbone, variant, seed, lists[0].parent, last["file"]))
                missing.discard((variant, seed))
    if missing:
        wanted = ", ".join(f"{v} with seed {s}" for v, s in sorted(missing))
        there = ", ".join(sorted(p.name for p in prune.glob("*") if p.is_dir())) or "nothing"
        raise UserError(
            f"params.yaml, sepprune.bench: no network of {wanted}; prune made: {there}. "
            "Change `variants` or `seeds` there, or add them to prune's."
        )
    return sources


def export(source: Source, params: Params, folder: Path) -> record.Network:
    """Write a network as ONNX file, check its output, count its arithmetic.

    Raises:
        UserError: its output differs from torch's by more than `params.tolerance`.
    """
    import torch

    from pipelines.sepprune.model import load
    from stages.bench.export import agreement, export_onnx
    from stages.calibrate.structure import count
    from stages.core.seeding import seed_all

    model = load(source.folder, source.weights)
    generator = seed_all("bench", source.name)
    shape = (1, params.samples)
    mixes = [0.1 * torch.randn(shape, generator=generator) for _ in range(2)]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{source.name}.onnx"
    export_onnx(model, (mixes[0],), file, ["mix"], ["sources"])
    error = agreement(model, file, [(mix,) for mix in mixes], params.tolerance)
    macs, parameters = count(model, mixes[0])
    return record.Network(
        backbone=source.backbone,
        variant=source.variant,
        seed=source.seed,
        file=file,
        shape=shape,
        macs=macs,
        parameters=parameters,
        weight_bits=32,
        activation_bits=32,
        error=error,
    )


def measure(
    params: Params, sources: list[Source], networks: list[record.Network], job: Job
) -> list[record.Measured]:
    """Time each backbone's networks against each other, then their training steps."""
    plan = latency.Plan(params.rounds, params.repeats, params.warmup)
    backbones = list(dict.fromkeys(source.backbone for source in sources))
    measured = []
    with job.progress(len(backbones) * (len(params.threads) * plan.rounds + 1), "measure") as bar:
        for backbone in backbones:
            files = {n.name: n.file for n in networks if n.backbone == backbone}
            shapes = {"mix": networks[0].shape}
            timings: list[latency.Timing] = []
            for threads in params.threads:
                timings += latency.measure(files, shapes, threads, plan, bar.advance)
            tasks = {s.name: _task(s, params) for s in sources if s.backbone == backbone}
            step = params.train_step
            costs = {
                cost.name: cost
                for cost in training.measure(
                    f"{training_step.__module__}:{training_step.__name__}",
                    tasks,
                    params.cores,
                    step.warmup,
                    step.repeats,
                )
            }
            bar.advance(note=backbone)
            measured += [
                record.Measured(n, tuple(t for t in timings if t.name == n.name), costs[n.name])
                for n in networks
                if n.name in files
            ]
    return measured


def training_step(folder: str, weights: str, batch: int, samples: int) -> Callable[[], float]:
    """One fine-tuning step as published (Adam, gradients clipped), on noise; gives its loss.

    Called by name in a process of its own; see `stages.bench.training`.
    """
    import torch

    from pipelines.sepprune.losses import training_loss
    from pipelines.sepprune.model import load

    model = load(Path(folder), weights).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(0)
    sources = 0.1 * torch.randn(batch, 2, samples, generator=generator)
    mix = sources.sum(1)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        loss = training_loss(model(mix), sources)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        return loss.item()

    return step


def counts(
    params: Params, inputs: Inputs, measured: list[record.Measured], paper: str
) -> list[dict[str, Any]]:
    """Rows for what needs no clock: size of every arm and seed, share of the separation module.

    Parameters and MACs of the nets that were exported are counted with them; those of all others
    were counted when they were cut.
    """
    done = {(m.network.backbone, m.network.variant, m.network.seed) for m in measured}
    rows = []
    for path in sorted(inputs["prune"].glob("*/*/*/seed*/keep.json")):
        variant, _, backbone, seed = path.parts[-5:-1]
        cell = (backbone, variant, int(seed.removeprefix("seed")))
        kept = read_json(path)
        if kept["jaccard_of_two_draws"] is not None:
            overlap = 100 * kept["jaccard_of_two_draws"]
            rows.append(record.counted_row(paper, *cell, "mask_overlap", overlap, "%", "none"))
        if cell not in done:
            macs = kept["macs_per_second"] * params.seconds
            rows.append(record.counted_row(paper, *cell, "macs", macs))
            rows.append(record.counted_row(paper, *cell, "parameters", kept["parameters"]))
    with (inputs["calibrate"] / "structure.csv").open(newline="") as file:
        modules = list(csv.DictReader(file))
    for backbone in sorted({row["backbone"] for row in modules}):
        own = [row for row in modules if row["backbone"] == backbone]
        inside = sum(float(r["macs"]) for r in own if r["module"].startswith("sm."))
        share = 100 * inside / sum(float(r["macs"]) for r in own)
        cell = (backbone, record.DENSE, params.seeds[0])
        rows.append(record.counted_row(paper, *cell, "separator_macs_share", share, "%", "higher"))
    return rows


def write_results(
    params: Params,
    measured: list[record.Measured],
    counted: list[dict[str, Any]],
    out: Path,
    job: Job,
) -> None:
    """Write bench.json, the scores, the summary and what the page shows."""
    rows = record.bench_rows(job.paper, measured, params.seconds, device(job.root))
    write_json(out / "bench.json", rows)
    scores = record.score_rows(job.paper, measured, params.seconds)
    write_scores(out / "scores.parquet", [*scores, *counted])
    write_metrics(out / "metrics.json", record.metrics(measured))
    audio = f"{params.seconds:g} s of audio at {params.rate} Hz"
    batch = f"Batch of {params.train_step.batch}, {audio} each"
    show(out, measured, Names(lambda name: NETS.get(name, name), label), audio, batch)


def where_time_goes(params: Params, inputs: Inputs, dense: list[Source], out: Path) -> None:
    """Table of each dense network's heaviest modules: their share of MACs beside that of time.

    Layers are picked by MACs; this shows how far time follows them.
    """
    from stages.bench.modules import module_times
    from stages.core.files import write_text
    from stages.core.pictures import add_exhibit

    with (inputs["calibrate"] / "structure.csv").open(newline="") as file:
        counted = list(csv.DictReader(file))
    lines = ["net,module,MACs %,time %,time ms"]
    for source in dense:
        import torch

        from pipelines.sepprune.model import load

        model = load(source.folder, source.weights)
        example = torch.zeros(1, params.samples)
        times = module_times(model, example, params.warmup, params.repeats)
        total = sum(times.values())
        own = [row for row in counted if row["backbone"] == source.backbone]
        for row in sorted(own, key=lambda row: -float(row["macs"]))[:HEAVIEST]:
            time = times.get(row["module"], 0.0)
            shares = f"{100 * float(row['share']):.1f},{100 * time / total:.1f},{time:.3f}"
            lines.append(f"{NETS.get(source.backbone, source.backbone)},{row['module']},{shares}")
    write_text(out / "modules.csv", "\n".join(lines) + "\n")
    add_exhibit(
        out,
        kind="table",
        name="modules",
        file="modules.csv",
        title="Time beside arithmetic, by module",
        caption=f"The {HEAVIEST} modules of each dense network with the most MACs: their share of "
        f"all MACs and of the time spent in modules, in torch, {params.seconds:g} s of audio, "
        f"median of {params.repeats} passes. Layers to prune are picked by MACs alone.",
    )


def _task(source: Source, params: Params) -> dict[str, Any]:
    return {
        "folder": str(source.folder.resolve()),
        "weights": source.weights,
        "batch": params.train_step.batch,
        "samples": params.samples,
    }
