"""The gate: does a teacher generate what it is asked for, near enough to real clips?

Clips are made for prompts of the test split and judged beside that split's real ones. A teacher
passes when the classifier is right on generated clips at least `accuracy` times as often as on
real ones, and when the Fréchet distance of generated from real test clips is at most `frechet`
times that of as many real validation clips: the floor that sampling and other writers' digits
leave. Papers read its output, so that none compresses a network that does not generate.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from safetensors.torch import save
from torch import Tensor

from pipelines.foundations.video import pictures, teacher
from pipelines.foundations.video.data import Clips, normal, pixels
from pipelines.foundations.video.judges import Judges, fitted
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import write_bytes, write_json
from stages.core.results import write_metrics
from stages.evaluate.frechet import frechet

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Sampling(core.Params):
    """How clips are sampled from a teacher, here and in the papers: DDIM's steps, guidance."""

    steps: int = Field(ge=1)
    guidance: float = Field(ge=0)


class Params(core.Params):
    """
    Attributes:
        seed: of the noise.
        clips: generated, and as many real ones beside them.
        batch: clips at once.
        accuracy: least part of the accuracy on real clips.
        frechet: largest multiple of the floor.
        required: stop where the gate is not passed.
        shown: clips in the picture.
    """

    seed: int = Field(ge=0)
    clips: int = Field(ge=2)
    batch: int = Field(ge=1)
    accuracy: float = Field(ge=0)
    frechet: float = Field(ge=0)
    required: bool
    shown: int = Field(ge=1)
    variant: Sampling


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Generate, judge, show; stop where the gate is not passed.

    Raises:
        UserError: a split has too few clips, or the gate is required and not passed.
    """
    name = job.variant or ""
    clips = Clips.load(inputs["prepare"])
    jury = Judges.load(inputs["judge"], job.device)
    taught = teacher.load(inputs[f"{job.paper}/teach/{name}"], job.device, job.root)
    ids, real, prompts, labels = (part[: params.clips] for part in clips.fixed("test"))
    other = clips.fixed("valid")[1][: params.clips]
    if min(len(real), len(other)) < params.clips:
        raise UserError(
            f"params.yaml: foundations.video.gate.clips is {params.clips}, but the splits valid "
            f"and test have {clips.count('valid')} and {clips.count('test')} clips"
        )
    made = taught.generate(
        ids,
        prompts,
        steps=params.variant.steps,
        guidance=params.variant.guidance,
        seed=params.seed,
        batch=params.batch,
        form=lambda x: fitted(x, jury.shape),
    )
    stored = pixels(made)
    found = judged(jury, normal(stored), real, other, labels)
    passed = {
        "accuracy": found["accuracy"]["ratio"]["all"] >= params.accuracy,
        "frechet": found["frechet"]["ratio"] <= params.frechet,
    }
    sampling = params.variant.model_dump()
    limits = {"accuracy": params.accuracy, "frechet": params.frechet}
    verdict = {"passed": passed, "limits": limits, "sampling": sampling, **found}
    write_bytes(out / "clips.safetensors", save({"clips": stored, "labels": labels}))
    write_json(out / "gate.json", verdict)
    write_metrics(out / "metrics.json", found)
    captions = clips.captions("test")[: params.shown]
    pictures.show(out, name, pixels(real[: params.shown]), stored[: params.shown], captions, found)
    if params.required and not all(passed.values()):
        raise UserError(_message(name, params, found))


def judged(
    jury: Judges, made: Tensor, real: Tensor, other: Tensor, labels: Tensor
) -> dict[str, Any]:
    """What the judges say.

    Args:
        made: generated clips (N, T, C, H, W) in [-1, 1], for the labels (N, K).
        real: real ones with these labels.
        other: as many real ones of another split.

    Returns:
        accuracy: by column of the labels, and of all columns together ("all"): on `real` and
        `generated` clips, and their `ratio`. frechet: of generated from real clips, the `floor`
        between real ones, and their `ratio`.
    """
    accuracy: dict[str, dict[str, float]] = {}
    for kind, x in (("real", real), ("generated", made)):
        right = jury.named(x) == labels
        accuracy[kind] = {
            **dict(zip(jury.classes, right.float().mean(0).tolist(), strict=True)),
            "all": float(right.all(1).float().mean()),
        }
    accuracy["ratio"] = {
        key: accuracy["generated"][key] / max(value, 1e-9)
        for key, value in accuracy["real"].items()
    }
    vectors = jury.vectors(real)
    distance, floor = frechet(jury.vectors(made), vectors), frechet(jury.vectors(other), vectors)
    ratio = distance / max(floor, 1e-9)
    return {
        "accuracy": accuracy,
        "frechet": {"generated": distance, "floor": floor, "ratio": ratio},
    }


def _message(name: str, params: Params, found: dict[str, Any]) -> str:
    return (
        f"the teacher '{name}' does not pass the gate: its accuracy is "
        f"{found['accuracy']['ratio']['all']:.2f} of that on real clips (at least "
        f"{params.accuracy:g} is asked for), its Fréchet distance {found['frechet']['ratio']:.2f} "
        f"times the floor (at most {params.frechet:g}); train it longer, or make the task smaller: "
        "fewer classes in foundations.video.prepare"
    )
