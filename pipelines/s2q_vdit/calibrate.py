"""Make the pools of candidates, one a calibration seed, and measure every member's salience.

The seed decides the candidate prompts and their noise, so that calibration sets of different seeds
share nothing but chance; what is drawn later from a pool depends on it too. Choosing is left to
`quantize`, whose arms choose differently from the same pool.

Leaves `seed<n>.safetensors` (inputs, times, prompts, both measures), `salience.csv`, `pool.json`
and a picture.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from pipelines.foundations.video.data import Clips
from pipelines.s2q_vdit import pictures, pool
from pipelines.s2q_vdit.nets import layout
from pipelines.s2q_vdit.pool import Pool
from pipelines.s2q_vdit.selection import Member, Norm, choose, scaled
from pipelines.s2q_vdit.source import open_teacher, sampling_of
from stages.core import params as core
from stages.core.dag import seed_range
from stages.core.files import write_json
from stages.core.results import write_curve

if TYPE_CHECKING:
    import pandas

    from stages.core.job import Inputs, Job


class Params(core.Params):
    """
    Attributes:
        prompts: candidates whose trajectories make the pool.
        count: N, members that a calibration set has.
        norm: of the Hessian's salience.
        batch: trajectories at once; decides the speed alone, but for the last digits.
        seeds: of calibration sets.
    """

    prompts: int = Field(ge=1)
    count: int = Field(ge=1)
    norm: Norm
    batch: int = Field(ge=1)
    seeds: Annotated[list[str], core.Borrowed("quantize.seeds")]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Sample and measure the pool of every seed.

    Raises:
        UserError: attention of the teacher is not joint, or the pool is too small.
    """
    taught = open_teacher(inputs, job)
    layout(taught.denoiser)
    clips = Clips.load(inputs["foundations/video/prepare"])
    sampling = sampling_of(inputs)
    pools: dict[int, Pool] = {}
    seeds = [seed for text in params.seeds for seed in seed_range(text)]
    with job.progress(len(seeds), "pools") as bar:
        for seed in seeds:
            prompts = pool.draw(clips, params.prompts, seed)
            pools[seed] = pool.sample(
                taught, prompts, sampling, params.norm, seed=seed, batch=params.batch
            )
            pools[seed].keep(out / f"seed{seed}.safetensors")
            bar.advance()
    varied = {seed: pool.variation(found, taught) for seed, found in pools.items()}
    table = salience(pools, varied, params.count)
    write_curve(out / "salience.csv", table)
    told = {seed: described(found, varied[seed], params.count) for seed, found in pools.items()}
    write_json(out / "pool.json", {"sampling": sampling._asdict(), "seeds": told})
    pictures.salience(out, table, params.prompts, list(told.values()))


def salience(pools: dict[int, Pool], varied: dict[int, Tensor], count: int) -> pandas.DataFrame:
    """Means over prompts and seeds, a row a step.

    Columns: `step` (1 is the first), `time`, `diff`, `quant` and `centred` (scaled over each pool),
    `product` of the first two, and `chosen`, the share of members of this step that are among the
    N largest.

    Args:
        varied: C_quant without the tokens' mean, by seed.
    """
    import pandas

    columns: dict[str, list[Any]] = {
        "diff": [], "quant": [], "centred": [], "product": [], "chosen": [],
    }  # fmt: skip
    for seed, found in pools.items():
        diff, quant = scaled(found.diff), scaled(found.quant)
        mark = torch.zeros_like(diff)
        for member in choose("sds", found.diff, found.quant, count):
            mark[member] = 1
        made = (diff, quant, scaled(varied[seed]), diff * quant, mark)
        for name, values in zip(columns, made, strict=True):
            columns[name].append(values.mean(0))
    times = next(iter(pools.values())).times
    data: dict[str, Any] = {"step": range(1, len(times) + 1), "time": times.double().tolist()}
    data |= {name: torch.stack(values).mean(0).tolist() for name, values in columns.items()}
    return pandas.DataFrame(data)


def described(found: Pool, varied: Tensor, count: int) -> dict[str, Any]:
    """What one pool is like, and what salience takes from it.

    `prompts` and `steps`: how many different ones the N largest have, `chosen`: how many of them
    are of which step (1 is the first), `neighbours`: how many have the step after them among them
    as well. `correlation`: of both measures over the pool.

    `centred` tells the same of C_quant without the tokens' mean: what would be chosen by it, how
    many of those are chosen anyway, and its correlations with movement and with C_quant. Where
    tokens have a mean that grows as noise goes, C_quant grows with it, whatever else they do.

    Args:
        varied: C_quant without the tokens' mean, (P, S).
    """
    chosen = choose("sds", found.diff, found.quant, count)
    others = choose("sds", found.diff, varied, count)
    return {
        "members": found.diff.numel(),
        "prompts": len({prompt for prompt, _ in chosen}),
        "steps": len({step for _, step in chosen}),
        "chosen": _by_step(chosen),
        "neighbours": sum((prompt, step + 1) in chosen for prompt, step in chosen),
        "correlation": _correlation(found.diff, found.quant),
        "centred": {
            "chosen": _by_step(others),
            "shared": len(set(chosen) & set(others)),
            "correlation": _correlation(found.diff, varied),
            "with_quant": _correlation(found.quant, varied),
        },
    }


def _by_step(members: list[Member]) -> dict[int, int]:
    """How many members each step has, of those that have any; 1 is the sampler's first."""
    return dict(sorted(Counter(step + 1 for _, step in members).items()))


def _correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])
