"""Ask the teachers once: their answers to all training windows, and where their bands part.

The teachers do not change while a student learns, and no window is augmented; so their forecasts
and latent maps are kept here, and a step of distillation costs the student's work alone. They are
asked in evaluation mode. Energies of bands come from training windows only.

Leaves `<teacher>.safetensors` (output, latent, high, low), the same of an untrained network
(`<teacher>-random`, the placebo), `bands.json`, a picture, and a table of how much of each map lies
in the high band.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from safetensors.torch import save
from torch import Tensor

from pipelines.sdkd import spectra
from pipelines.sdkd.cache import RANDOM
from pipelines.sdkd.data import Fields
from pipelines.sdkd.model import build, load
from pipelines.sdkd.nets.teachers import SimVP
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import read_json, write_bytes, write_json
from stages.core.seeding import seed_all
from stages.distill.bands import energies, spectrum

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Params(core.Params):
    """
    Attributes:
        seed: of the untrained network.
        batch: windows asked at a time; decides the speed alone.
        teacher: of which the untrained copy is made, and whose latent grid gives the cutoff.
        cutoff: largest wavenumber of the low band, as a share of that grid's Nyquist wavenumber.
    """

    seed: int = Field(ge=0)
    batch: int = Field(ge=1)
    teacher: str
    cutoff: Annotated[float, Field(gt=0, lt=1)]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Keep every teacher's answers, and describe their bands."""
    fields = Fields.load(inputs["prepare"])
    _, x, y = fields.fixed("train")
    folders = sorted(path.parent for path in inputs["teach"].glob("*/config.json"))
    names = [folder.name for folder in folders]
    if params.teacher not in names:
        raise UserError(
            f"params.yaml: sdkd.calibrate.teacher is '{params.teacher}', but teach trained: "
            f"{', '.join(names)}"
        )
    nets = {folder.name: load(folder) for folder in folders}
    seed_all("untrained teacher", params.teacher, params.seed)
    untrained = build(read_json(inputs["teach"] / params.teacher / "config.json")).eval()
    nets[params.teacher + RANDOM] = untrained
    cutoff = params.cutoff * min(nets[params.teacher].latent[1:]) / 2
    told, parts, shown = {}, {}, {"targets": spectrum(y)}
    with job.progress(len(nets), "teachers") as bar:
        for name, net in nets.items():
            assert isinstance(net, SimVP)
            answers = ask(net.to(job.device), x, params.batch)
            write_bytes(out / f"{name}.safetensors", save(answers))
            told[name] = described(answers, cutoff)
            parts[name] = shares(answers, cutoff)
            shown[name] = spectrum(_centred(answers["latent"]))
            bar.advance(note=name)
    low, high = energies(y, cutoff)
    bands: dict[str, Any] = {
        "cutoff": cutoff,
        "energy": told,
        "high_share": parts,
        "targets": {"low": low, "high": high},
    }
    write_json(out / "bands.json", bands)
    spectra.show(out, shown, bands)


def ask(net: SimVP, x: Tensor, batch: int) -> dict[str, Tensor]:
    """A teacher's answers to windows (N, T, C, H, W), on the CPU; see `cache.Memory.maps`."""
    device = next(net.parameters()).device
    parts: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for part in x.split(batch):
            for key, value in zip(
                ("output", "latent", "high", "low"), net.branches(part.to(device)), strict=True
            ):
                if value is not None:
                    parts.setdefault(key, []).append(value.cpu())
    return {key: torch.cat(values).contiguous() for key, values in parts.items()}


def described(answers: dict[str, Tensor], cutoff: float) -> dict[str, float]:
    """Variances of what a teacher answers; see `cache.Memory.energy`."""
    found: dict[str, float] = {}
    for key in ("output", "latent"):
        low, high = energies(_centred(answers[key]), cutoff)
        found |= {f"{key}_low": low, f"{key}_high": high, key: low + high}
    for key in sorted({"high", "low"} & set(answers)):
        found[key] = float(_centred(answers[key]).double().square().mean())
    return found


def shares(answers: dict[str, Tensor], cutoff: float) -> dict[str, float]:
    """How much of the energy of each of a teacher's maps lies above the cutoff, by map."""
    found = {}
    for key, maps in answers.items():
        low, high = energies(_centred(maps), cutoff)
        found[key] = high / (low + high) if low + high > 0 else 0.0
    return found


def _centred(maps: Tensor) -> Tensor:
    """Maps (N, ..., H, W) less each channel's mean over windows and points.

    A student's adapter has a bias, which learns this constant at once. In the latent map of a
    network that was never trained it is half of all energy.
    """
    return maps - maps.mean((0, -2, -1), keepdim=True)
