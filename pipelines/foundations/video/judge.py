"""Train the judges on real training clips: what is made by a network never comes near them.

Which weights are kept is decided on validation clips, and how well they judge is told there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from safetensors.torch import save
from torch import Tensor, nn

from pipelines.foundations.video import judges
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.judges import CLASSIFIER, FEATURES, Judges, Numbers
from stages.core import params as core
from stages.core.files import write_bytes, write_json, write_text
from stages.core.results import write_metrics
from stages.core.seeding import seed_all, seed_of
from stages.evaluate.frechet import frechet
from stages.teach import curves
from stages.teach.loop import TrainSpec, curve_csv, fit

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Judge(core.Params):
    """One network, and how it is trained."""

    net: Numbers
    train: TrainSpec


class Params(core.Params):
    """
    Attributes:
        redraw: weight of the redrawn clip's error beside the labels', in training the features.
    """

    seed: int = Field(ge=0)
    classifier: Judge
    features: Judge
    redraw: float = Field(ge=0)


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Train both, freeze them, and show that the distance sees what it should."""
    clips = Clips.load(inputs["prepare"])
    shape = [clips.frames, clips.channels, *clips.size]
    about = {
        "shape": shape,
        "classes": {name: len(names) for name, names in clips.classes.items()},
        CLASSIFIER: params.classifier.net.model_dump(),
        FEATURES: params.features.net.model_dump(),
    }
    # Each is drawn from its own seed, and the other's is thrown away.
    seed_all("judge", CLASSIFIER, params.seed)
    classifier = judges.build(about)[0].to(job.device)
    seed_all("judge", FEATURES, params.seed)
    features = judges.build(about)[1].to(job.device)
    learnt = {
        CLASSIFIER: _train(classifier, CLASSIFIER, params.classifier, {}, clips, params.seed, job),
        FEATURES: _train(
            features, FEATURES, params.features, {"weight": params.redraw}, clips, params.seed, job
        ),
    }
    features.eval()
    features.settle(clips.fixed("train")[1].to(job.device))
    for name, net in ((CLASSIFIER, classifier), (FEATURES, features)):
        state = {key: value.cpu().contiguous() for key, value in net.state_dict().items()}
        write_bytes(out / name / "model.safetensors", save(state))
        write_text(out / name / "curve.csv", curve_csv(learnt[name]))
    write_json(out / "judges.json", about)
    write_metrics(out / "metrics.json", _measured(Judges(classifier, features), clips))
    curves.show(
        out,
        learnt,
        ylabel="loss",
        title="Learning curves of the judges",
        caption="Cross-entropy, summed over what clips are told apart by; the features' loss also "
        "holds the error of the redrawn clip.",
    )


def _train(
    net: Any,
    name: str,
    judge: Judge,
    more: dict[str, float],
    clips: Clips,
    seed: int,
    job: Job,
) -> list[dict[str, float]]:
    """Train one network in place, leave it as it was best, give its learning curve."""
    truth = clips.fixed("train")[3]
    _, x, _, labels = clips.fixed("valid")

    def loss(model: nn.Module, step: int) -> Tensor:
        seen, _, index = clips.batch(seed_of("judge", name, seed), step, judge.train.batch)
        return model.loss(seen.to(job.device), truth[index].to(job.device), **more)  # type: ignore[operator, no-any-return]

    result = fit(
        net,
        loss,
        judge.train,
        job=job,
        name=name,
        seed=seed,
        validate=_over(x, labels, more, job.device),
        epoch_steps=max(1, clips.count("train") // judge.train.batch),
    )
    net.load_state_dict(result.best)
    return result.curve


def _over(
    x: Tensor, labels: Tensor, more: dict[str, float], device: torch.device
) -> Callable[[nn.Module], float]:
    def loss(model: nn.Module) -> float:
        parts = zip(x.split(judges.BATCH), labels.split(judges.BATCH), strict=True)
        total = sum(
            float(model.loss(part.to(device), truth.to(device), **more)) * len(part)  # type: ignore[operator]
            for part, truth in parts
        )
        return total / len(x)

    return loss


def _measured(jury: Judges, clips: Clips) -> dict[str, dict[str, float]]:
    """On validation clips: accuracy, and distances from training clips of the clips as they are
    and spoilt in ways that a distance must see."""
    _, x, _, labels = clips.fixed("valid")
    right = jury.named(x) == labels
    accuracy = {
        name: float(column.float().mean())
        for name, column in zip(jury.classes, right.T, strict=True)
    }
    accuracy["all"] = float(right.all(1).float().mean())
    real = jury.vectors(clips.fixed("train")[1][: len(x)])
    seen = {"as_they_are": x, **spoilt(x)}
    return {
        "accuracy": accuracy,
        "frechet": {name: frechet(jury.vectors(each), real) for name, each in seen.items()},
    }


def spoilt(x: Tensor) -> dict[str, Tensor]:
    """Clips (N, T, C, H, W) with faults that compression may bring."""
    generator = torch.Generator().manual_seed(seed_of("judge", "spoilt"))
    smooth = nn.functional.avg_pool3d(x, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
    return {
        "noisy": (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(-1, 1),
        "blurred": smooth,
        "frozen": x[:, :1].expand_as(x),
        "shuffled": x[:, torch.randperm(x.shape[1], generator=generator)],
    }
