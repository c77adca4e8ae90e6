"""A teacher's network quantized by an arm; not yet trained, or as its file has it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.teacher import Teacher
from pipelines.foundations.video.text import Text
from pipelines.q_vdit import parts
from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.plan import Cell
from pipelines.q_vdit.released import check_channels
from pipelines.q_vdit.samples import SALIENCE, Samples, Whole, run
from pipelines.q_vdit.tqe import TokenAware, first_gain
from stages.core.files import read_json
from stages.quantize import store
from stages.quantize.capture import Records, watching
from stages.quantize.layers import plain, quantized
from stages.quantize.shared import share, siblings
from stages.quantize.swap import swap

MODEL, TRAINING = "model.safetensors", "training.json"


@dataclass(frozen=True)
class Ground:
    """What all arms of a seed start from: the teacher, and one calibration set."""

    taught: Teacher
    samples: Samples
    text: Text
    salience: Mapping[str, Tensor]
    seed: int

    @classmethod
    def load(cls, folder: Path, taught: Teacher, seed: int) -> Ground:
        """
        Args:
            folder: of `calibrate`.
        """
        own = folder / f"seed{seed}"
        samples = Samples.load(own)
        device = next(taught.denoiser.parameters()).device
        text = samples.text(taught.read, device)
        return cls(taught, samples, text, load_file(own / SALIENCE), seed)

    def records(self, *, masked: bool = True) -> Records:
        """Of the whole model, see `Samples.records`."""
        return self.samples.records(self.text, masked=masked)


def build(ground: Ground, arm: Arm, cell: Cell, *, momentum: float, batch: int) -> Denoiser:
    """A copy of the teacher's network, quantized, with the arm's parts at their start.

    Args:
        momentum: see `parts.attach`.
        batch: samples at once where the gain is measured; decides the speed alone.

    Raises:
        UserError: the arm does not suit the network or its clips.
    """
    frames, channels = ground.taught.shape[:2]
    if arm.temporal is not None and arm.temporal.frames == "scrambled":
        check_channels(channels)
    student = copy.deepcopy(ground.taught.denoiser)
    swap(student, cell.rules)
    parts.attach(student, arm, ground.salience, momentum=momentum, frames=frames, seed=ground.seed)
    share_inputs(student, ground.records())
    if arm.gain == "measured":
        measure_gains(student, ground.records(), frames, batch)
    return student


def share_inputs(student: Denoiser, records: Records) -> None:
    """Quantize what several layers are given once for all of them, where none transforms it."""
    found = {name: layer for name, layer in quantized(student).items() if layer.transform is None}
    with plain(student):
        groups = siblings(found, lambda: run(Whole(student), records, 1, [0]))
    for group in groups:
        share([found[name] for name in group])


@torch.no_grad()
def measure_gains(student: Denoiser, records: Records, frames: int, batch: int) -> None:
    """Set every gain to equation 9, from the teacher's activations.

    The mean of each sample's M [inferred: how samples and steps are brought together is not said].
    """
    chosen = {
        name: layer
        for name, layer in quantized(student).items()
        if isinstance(layer.beside, TokenAware) and layer.beside.gain is not None
    }
    sums = {name: torch.zeros(frames, device=layer.weight.device) for name, layer in chosen.items()}
    whole = Whole(student)
    for start in range(0, len(records), batch):
        some = list(range(start, min(start + batch, len(records))))

        def see(name: str, x: Tensor, samples: int = len(some)) -> None:
            layer = chosen[name]
            assert isinstance(layer.beside, TokenAware)
            x = layer.prepared(x)
            rounded = x if layer.inputs is None else layer.inputs(x)
            sums[name] += first_gain(x, rounded, frames, layer.beside.place, samples).sum(0)

        with plain(student), watching(chosen, see):
            run(whole, records, batch, some)
    for name, layer in chosen.items():
        assert isinstance(layer.beside, TokenAware) and layer.beside.gain is not None
        layer.beside.gain.copy_(sums[name] / len(records))


def load(folder: Path, taught: Teacher) -> Denoiser:
    """What `quantize` left in `work/q_vdit/quantize/<variant>/<cell>/seed<k>`, ready to be used.

    Raises:
        UserError: the file is missing, or does not suit the teacher.
    """
    arm = Arm.model_validate(read_json(folder / TRAINING)["arm"])
    student = copy.deepcopy(taught.denoiser)
    store.load(student, folder / MODEL, parts.make(arm, taught.shape[0]))
    return student.eval()
