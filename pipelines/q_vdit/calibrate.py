"""Walk with the teacher from noise to clips, and keep what calibration needs.

Some prompts, evenly spaced steps of the walk, and both branches of guidance, each a sample of its
own with what the teacher gave (ten prompts and 50 of 100 steps in the paper, appendix B; in the
release, steps and branches alike are items of a batch). All arms of a seed share the set, and the
largest magnitude of every channel of every layer at each of the steps.

Leaves `seed<k>/samples.safetensors`, `seed<k>/salience.safetensors` (layer -> (steps, in)) and
`calibration.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from safetensors.torch import save
from torch import Tensor

from pipelines.foundations.video import diffusion
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.gate import Sampling
from pipelines.foundations.video.teacher import Teacher
from pipelines.q_vdit import plan
from pipelines.q_vdit.samples import SALIENCE, Samples, Whole
from pipelines.q_vdit.samples import run as run_samples
from pipelines.q_vdit.source import open_teacher, sampling_of
from stages.core import params as core
from stages.core.dag import seed_range
from stages.core.errors import UserError
from stages.core.files import write_bytes, write_json
from stages.core.seeding import seed_of
from stages.quantize.capture import Records
from stages.quantize.smooth import maxima

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Params(core.Params):
    """
    Attributes:
        prompts: kinds of training clips that are asked for, drawn anew for each seed.
        steps: of the walk that are kept.
        batch: samples at once; decides the speed alone.
        seeds: of calibration sets.
    """

    prompts: int = Field(ge=1)
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    seeds: Annotated[list[str], core.Borrowed("quantize.seeds")]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Make one calibration set per seed.

    Raises:
        UserError: there are fewer kinds of clips or steps than asked for, or the teacher attends to
            space and time at once.
    """
    clips = Clips.load(inputs["foundations/video/prepare"])
    taught, sampling = open_teacher(inputs, job), sampling_of(inputs)
    seeds = [seed for text in params.seeds for seed in seed_range(text)]
    told: dict[str, Any] = {}
    with job.progress(len(seeds), "calibration sets") as bar:
        for seed in seeds:
            folder = out / f"seed{seed}"
            prompts = asked(clips, params.prompts, seed)
            samples = gather(taught, prompts, sampling, params.steps, seed)
            samples.save(folder)
            records = samples.records(samples.text(taught.read, job.device), masked=True)
            found = salience(taught.denoiser, records, samples.step, params.batch)
            write_bytes(folder / SALIENCE, save(found))
            told[f"seed{seed}"] = {"samples": len(samples), "outliers": outliers(found)}
            bar.advance()
    write_json(out / "calibration.json", {"sampling": sampling.model_dump(), "seeds": told})


def asked(clips: Clips, count: int, seed: int) -> Tensor:
    """Prompts (count, L) of different kinds of training clips.

    Raises:
        UserError: there are fewer kinds.
    """
    prompts = clips.kinds()[1]
    if count > len(prompts):
        raise UserError(
            f"params.yaml: q_vdit.calibrate.prompts is {count}, but the training clips are of "
            f"{len(prompts)} kinds"
        )
    generator = torch.Generator().manual_seed(seed_of("q_vdit", "prompts", seed))
    return prompts[torch.randperm(len(prompts), generator=generator)[:count]]


def kept(total: int, count: int) -> list[int]:
    """`count` of `total` steps, the middles of equal parts of the walk.

    Raises:
        UserError: there are fewer steps.
    """
    if count > total:
        raise UserError(f"params.yaml: q_vdit.calibrate.steps is {count}, but the walk has {total}")
    return [(2 * k + 1) * total // (2 * count) for k in range(count)]


def gather(taught: Teacher, prompts: Tensor, sampling: Sampling, count: int, seed: int) -> Samples:
    """Samples by rising step; within a step without prompts first, where there is guidance.

    Args:
        prompts: (P, L), one walk each.
        count: steps of the walk that are kept.
        seed: of the noise.
    """
    device = next(taught.denoiser.parameters()).device
    steps = {number: k for k, number in enumerate(kept(sampling.steps, count))}
    halves = 1 if sampling.guidance == 1 else 2
    rows: dict[str, list[Tensor]] = {}

    def observe(number: int, t: Tensor, x: Tensor, both: Tensor) -> None:
        if number not in steps:
            return
        row = {
            "x": torch.cat([x] * halves),
            "t": t.expand(len(both)),
            "step": torch.full((len(both),), steps[number]),
            "prompts": torch.cat([prompts] * halves),
            "given": torch.arange(len(both)) >= len(both) - len(x),
            "target": both,
        }
        for name, value in row.items():
            rows.setdefault(name, []).append(value.cpu())

    names = [f"calibrate-{k}" for k in range(len(prompts))]
    noise = diffusion.noise_for(names, taught.shape, seed).to(device)
    text, empty = taught.read(prompts.to(device))
    walk = (sampling.steps, sampling.guidance, observe)
    diffusion.sample(taught.denoiser, taught.noising, text, empty, noise, *walk)
    return Samples(**{name: torch.cat(parts) for name, parts in rows.items()})


def salience(denoiser: Denoiser, records: Records, step: Tensor, batch: int) -> dict[str, Tensor]:
    """max|X_j| of every layer of the blocks at every kept step: name -> (steps, in)."""
    modules = {name: denoiser.get_submodule(name) for name in plan.layers(denoiser)}
    whole = Whole(denoiser)
    found: dict[str, list[Tensor]] = {name: [] for name in modules}
    for number in range(int(step.max()) + 1):
        chosen = (step == number).nonzero().flatten().tolist()

        def walk(chosen: list[int] = chosen) -> Tensor:
            return run_samples(whole, records, batch, chosen)

        for name, top in maxima(modules, walk).items():
            found[name].append(top.cpu())
    return {name: torch.stack(rows) for name, rows in found.items()}


def outliers(found: dict[str, Tensor]) -> dict[str, float]:
    """By layer, the largest channel's magnitude over the median channel's.

    Published networks of billions of weights have channels hundreds of times the median, which is
    what scaling and rotation are for; a small one need not have any.
    """
    tops = {name: table.amax(0) for name, table in found.items()}
    return {name: float(top.max() / top.median().clamp(min=1e-12)) for name, top in tops.items()}
