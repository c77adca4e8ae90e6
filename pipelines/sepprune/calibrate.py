"""Look at where the dense separators spend their arithmetic, and say what is to be pruned.

SepPrune (arXiv 2505.12079), section 3.1: the paper lists MACs and parameters per module for one
second of audio, ranks them, and prunes the heaviest dense layers of the separation module. By MACs
alone: a measured time would differ from machine to machine, and stands in bench. The candidates
are the channels that the released code masks. By what rule the authors chose them is not found; the
one here is a reconstruction, and confirms every candidate on the published networks.

Leaves `structure.csv`, `targets.json`, `batches.safetensors` (the mixtures on which masks are
learned), a table and a picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from safetensors.torch import save

from pipelines.sepprune import costs
from pipelines.sepprune.data import Speech
from pipelines.sepprune.model import load
from pipelines.sepprune.separators.frame import Separator
from stages.calibrate.structure import structure
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import write_bytes, write_json, write_text
from stages.core.seeding import seed_of
from stages.prune.budget import channel_costs, prunable
from stages.prune.groups import ChannelGroup

if TYPE_CHECKING:
    import pandas

    from stages.core.job import Inputs, Job

Share = Annotated[float, Field(gt=0, lt=1)]
RULE = (
    "Modules of the separation module are ranked by MACs for one second of audio. Heavy are the "
    "1x1 convolutions among those that together make {heavy:.0%} of it. A group of channels is "
    "pruned if a heavy convolution makes it or reads it."
)


class Budget(core.Params):
    """`parameters`: share of each dense network's parameters that may stay, by backbone."""

    parameters: Annotated[dict[str, Share], Field(min_length=1)]


class Params(core.Params):
    """`heavy`: share of the separation module's MACs that the looked-at modules make up."""

    seed: int = Field(ge=0)
    batches: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    heavy: Annotated[float, Field(gt=0, le=1)]
    budget: Budget


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Analyse every network that teach made, choose channel groups, hold calibration mixtures."""
    import pandas

    speech = Speech.load(inputs["prepare"])
    tables, targets = {}, {}
    for folder in sorted(path.parent for path in inputs["teach"].glob("*/config.json")):
        model = load(folder)
        table = structure(model, torch.zeros(1, speech.rate))
        targets[folder.name] = target(params, folder.name, model, table)
        tables[folder.name] = table
        job.log.info("%s: %d MACs a second", folder.name, targets[folder.name]["dense_macs"])
    whole = pandas.concat(
        [table.assign(backbone=name) for name, table in tables.items()], ignore_index=True
    )
    whole = whole[["backbone", *(name for name in whole if name != "backbone")]]
    write_text(out / "structure.csv", whole.to_csv(index=False, float_format="%.9g"))
    write_json(out / "targets.json", targets)
    drawn = [
        speech.batch(seed_of("calibrate", params.seed), step, params.batch_size)
        for step in range(params.batches)
    ]
    mix, sources = (torch.cat(parts).contiguous() for parts in zip(*drawn, strict=True))
    write_bytes(out / "batches.safetensors", save({"mix": mix, "sources": sources}))
    costs.show(out, tables, targets, RULE.format(heavy=params.heavy))


def target(
    params: Params, backbone: str, model: Separator, table: pandas.DataFrame
) -> dict[str, Any]:
    """Chooses what to prune in one network, and how much of it may stay.

    Args:
        backbone: Its name in `params.budget`.
        model: The dense network.
        table: What `structure` says of it.

    Returns:
        `groups`: names of the chosen groups. `budget`: parameters that their kept channels may take
        together. `keep_share`: what share of their parameters that is. `dense_parameters`,
        `dense_macs`, `fixed_parameters` (not in any chosen channel). `candidates`: per group of the
        network its producer, channels, parameters per channel, the share of the separation module's
        MACs of 1x1 convolutions that goes with it, whether it is chosen, and why.

    Raises:
        UserError: The budget of this backbone is missing, or no choice of channels can meet it.
    """
    macs = _separation_macs(table)
    heavy = _heavy(table, macs, params.heavy)
    candidates = [_candidate(model, group, macs, heavy) for group in model.groups()]
    chosen = [g for g, c in zip(model.groups(), candidates, strict=True) if c["chosen"]]
    per_channel = channel_costs(model.state_dict(), model.groups())
    for candidate in candidates:
        candidate["parameters_per_channel"] = per_channel[candidate["name"]]
    dense = int(table["parameters"].sum())
    removable = prunable(chosen, per_channel)
    least = dense - removable + sum(per_channel[group.name] for group in chosen)
    share = params.budget.parameters.get(backbone)
    where = f"sepprune.calibrate.budget.parameters.{backbone}"
    if share is None:
        raise UserError(f"params.yaml: '{where}' is missing; teach trained this network")
    if round(share * dense) < least or not chosen:
        raise UserError(
            f"params.yaml: '{where}' is {share}, but with one channel left in each pruned group "
            f"this network still has {least / dense:.3f} of its parameters; allowed: above that"
        )
    budget = round(share * dense) - (dense - removable)
    return {
        "groups": [group.name for group in chosen],
        "budget": budget,
        "keep_share": round(budget / removable, 6),
        "dense_parameters": dense,
        "dense_macs": int(table["macs"].sum()),
        "fixed_parameters": dense - removable,
        "candidates": candidates,
    }


def _separation_macs(table: pandas.DataFrame) -> dict[str, int]:
    """MACs of the separation module's 1x1 convolutions and other modules, heaviest first."""
    inside = table[table["module"].str.startswith("sm.")]
    inside = inside.sort_values("macs", ascending=False, kind="stable")
    return dict(zip(inside["module"], inside["macs"].astype(int), strict=True))


def _heavy(table: pandas.DataFrame, macs: dict[str, int], share: float) -> set[str]:
    """The 1x1 convolutions among the modules that make up `share` of the MACs; equals count."""
    total, so_far, least = sum(macs.values()), 0, 0
    for cost in macs.values():
        if so_far < share * total:
            so_far, least = so_far + cost, cost
    dense = set(table.loc[table["kind"] == "1x1 conv", "module"])
    return {name for name, cost in macs.items() if cost >= max(least, 1) and name in dense}


def _candidate(
    model: Separator, group: ChannelGroup, macs: dict[str, int], heavy: set[str]
) -> dict[str, Any]:
    total, ranks = sum(macs.values()), {name: rank for rank, name in enumerate(macs, 1)}
    readers = [part.parameter.rpartition(".")[0] for part in group.slices if part.dim == 1]
    going = macs[group.producer]
    for name in readers:  # of a reader go the columns that the group has
        going += macs[name] * group.size // model.get_submodule(name).in_channels
    said = [
        f"{verb} by {name}: {macs[name] / total:.1%} of the separation module's MACs, "
        f"rank {ranks[name]} of {len(macs)}"
        for name, verb in ((group.producer, "made"), *((name, "read") for name in readers))
        if name in heavy
    ]
    return {
        "name": group.name,
        "producer": group.producer,
        "readers": readers,
        "channels": group.size,
        "macs_share": round(going / total, 6),
        "chosen": bool(said),
        "reason": "; ".join(said) or "neither made nor read by a heavy convolution",
    }
