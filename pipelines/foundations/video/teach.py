"""Train a video diffusion transformer on clips with captions, or take a published one.

Two architectures, for the two papers on this foundation: attention factorised in space and time
(Latte, as Q-VDiT's Open-Sora), and joint attention over all tokens and the text (CogVideoX, as
S²Q-VDiT's). They predict v, are given no prompt in some of the steps so that guidance can be used,
and are kept as their exponential moving average was best on validation clips.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipelines.foundations.video import diffusion, published, teacher
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.model import Factorised, Joint, Shape, build
from pipelines.foundations.video.published import Published
from pipelines.foundations.video.text import Words
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import write_json, write_text
from stages.core.seeding import seed_all, seed_of
from stages.teach import curves
from stages.teach.loop import Fit, TrainSpec, curve_csv, fit

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

LABELS = {"latte": "factorised", "cogvideox": "joint"}


class Variant(core.Params):
    """A teacher: what it is, and how it is trained (null for a published one)."""

    net: Annotated[Factorised | Joint | Published, Field(discriminator="net")]
    train: TrainSpec | None

    @model_validator(mode="after")
    def _trained_or_published(self) -> Variant:
        if (self.train is None) != isinstance(self.net, Published):
            raise ValueError("a published net has train: null, and any other needs one")
        return self


class Params(core.Params):
    """
    Attributes:
        schedule: of the noise.
        text: width of a word's vector.
        drop: share of training clips whose prompt is left empty.
        valid_clips: of the validation split, for the learning curve.
        valid_rounds: noise levels for each of them.
    """

    seed: int = Field(ge=0)
    schedule: diffusion.Schedule
    text: int = Field(ge=2, multiple_of=2)
    drop: float = Field(ge=0, lt=1)
    valid_clips: int = Field(ge=1)
    valid_rounds: int = Field(ge=1)
    variant: Variant


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Make one teacher.

    Raises:
        UserError: frames are not square, or a published model cannot be had.
    """
    clips = Clips.load(inputs["prepare"])
    name = job.variant or ""
    net, spec = params.variant.net, params.variant.train
    if isinstance(net, Published):
        write_json(out / teacher.ABOUT, published.describe(net, clips.vocabulary, job.root))
        return
    assert spec is not None
    words = Words.fresh(len(clips.vocabulary), params.text, params.seed)
    seed_all("teach", name, params.seed)
    model = build(net, shape_of(clips, params.text)).to(job.device)
    noising = diffusion.scheduler(params.schedule)
    result = fit(
        model,
        step_loss(clips, words, noising, params.drop, params.seed, spec.batch, job.device),
        spec,
        job=job,
        name=name,
        seed=params.seed,
        validate=valid_loss(clips, words, noising, params, job.device),
        epoch_steps=max(1, clips.count("train") // spec.batch),
    )
    model.load_state_dict(result.best)
    shape = [clips.frames, clips.channels, *clips.size]
    teacher.keep(out, model, noising, words, {"net": net.model_dump(), "shape": shape})
    _report(out, name, model, result)


def shape_of(clips: Clips, text: int) -> Shape:
    """What the network must know of the clips."""
    height, width = clips.size
    if height != width:
        raise UserError(
            f"foundations.video.teach needs square frames, and prepare made {height} × {width}"
        )
    return Shape(
        frames=clips.frames, channels=clips.channels, size=height, words=clips.length + 1, text=text
    )


def step_loss(
    clips: Clips,
    words: Words,
    noising: Any,
    drop: float,
    seed: int,
    batch: int,
    device: torch.device,
) -> Callable[[nn.Module, int], Tensor]:
    """The loss on the training clips of a step; some of their prompts are emptied."""
    order = seed_of("teach", seed)

    def loss(model: nn.Module, step: int) -> Tensor:
        x, prompts, _ = clips.batch(order, step, batch)
        dropped = torch.rand(len(x)) < drop
        text = words.encode(prompts.masked_fill(dropped[:, None], 0))
        t = diffusion.spread(len(x), noising.config.num_train_timesteps)
        noise = torch.randn_like(x)
        return diffusion.velocity_loss(
            model, noising, x.to(device), text.to(device), t.to(device), noise.to(device)
        )

    return loss


def valid_loss(
    clips: Clips, words: Words, noising: Any, params: Params, device: torch.device
) -> Callable[[nn.Module], float]:
    """The same on validation clips with their prompts, at noise that is the same each time."""
    _, x, prompts, _ = clips.fixed("valid")
    x, prompts = x[: params.valid_clips], prompts[: params.valid_clips]
    text = words.encode(prompts).to(device)

    def loss(model: nn.Module) -> float:
        total = 0.0
        for _ in range(params.valid_rounds):
            t = diffusion.spread(len(x), noising.config.num_train_timesteps)
            noise = torch.randn_like(x)
            for part in torch.arange(len(x)).split(64):
                value = diffusion.velocity_loss(
                    model, noising, x[part].to(device), text[part.to(device)],
                    t[part].to(device), noise[part].to(device),
                )  # fmt: skip
                total += float(value) * len(part)
        return total / (len(x) * params.valid_rounds)

    return loss


def _report(out: Path, name: str, model: nn.Module, result: Fit) -> None:
    """What is told of the training: the curve, where it was best, how large the network is."""
    write_text(out / "curve.csv", curve_csv(result.curve))
    told = {
        "steps": result.steps,
        "best_step": result.best_step,
        "valid_loss": min(row["valid_loss"] for row in result.curve),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    write_json(out / "training.json", told)
    curves.show(
        out,
        {LABELS.get(name, name): result.curve},
        ylabel="MSE of v",
        title="Learning curve of the teacher",
        caption="Mean squared error of the predicted velocity over all noise levels: on validation "
        "clips, and on the training batches, smoothed; a part of these have no prompt.",
    )
