"""What every arm is asked for, and what full precision answers: made once for all of them.

Prompts and real clips are of the test split, which neither training, calibration nor any choice of
a rate has seen; the noise is of names that nothing else uses. That a calibration set asked for the
same kind of clip cannot be helped: there are only so many kinds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipelines.foundations.video import diffusion
from pipelines.foundations.video.data import Clips, pixels
from pipelines.foundations.video.diffusion import Observer
from pipelines.foundations.video.judges import Judges, fitted
from pipelines.foundations.video.teacher import Teacher
from stages.core.errors import UserError
from stages.core.files import write_bytes
from stages.core.seeding import seed_of
from stages.evaluate.diffusion import Predict, Recorder, Walk

FILE = "answers.safetensors"
WALK = ("times", "levels", "states", "predictions", "end")


class Sampling(Protocol):
    """How a teacher is sampled: network evaluations of a walk, strength of guidance."""

    @property
    def steps(self) -> int: ...
    @property
    def guidance(self) -> float: ...


@dataclass(frozen=True)
class Asked:
    """
    Attributes:
        ids: of the clips, which name their noise and the rows of the scores.
        prompts: (N, L) int64.
        seed: of the noise.
        batch: clips at once.
        shape: of the judges' clips, to which what is generated is brought.
    """

    taught: Teacher
    sampling: Sampling
    ids: list[str]
    prompts: Tensor
    seed: int
    batch: int
    shape: tuple[int, ...]

    def parts(self, count: int) -> list[slice]:
        """The first `count` clips in batches."""
        return [slice(k, min(k + self.batch, count)) for k in range(0, count, self.batch)]

    def sample(
        self, denoiser: nn.Module, some: slice, observe: Observer | None, again: bool = False
    ) -> Tensor:
        """Walk to some of the clips: where the walk ends, (n, T, C, H, W).

        Args:
            again: from other noise.
        """
        place = next(denoiser.parameters())
        names = [f"{'again' if again else 'held'}-{name}" for name in self.ids[some]]
        noise = diffusion.noise_for(names, self.taught.shape, self.seed).to(place)
        text, empty = self.taught.read(self.prompts[some].to(place.device))
        return diffusion.sample(
            denoiser, self.taught.noising, text, empty, noise, self.sampling.steps,
            self.sampling.guidance, observe,
        )  # fmt: skip

    def predict(self, denoiser: nn.Module, some: slice) -> Predict:
        """What the sampler uses at a state of some of the clips: the guided prediction."""
        place = next(denoiser.parameters()).device
        text, empty = self.taught.read(self.prompts[some].to(place))

        def predicted(x: Tensor, t: Tensor) -> Tensor:
            strength = self.sampling.guidance
            found, _ = diffusion.guided(denoiser, x.to(place), t.to(place), text, empty, strength)
            return found.to(x.device)

        return predicted

    def seen(self, end: Tensor) -> Tensor:
        """What a walk ended at as clips for the eye, (n, T, H, W, C) uint8 in the judges' shape.

        What is not a number becomes grey: that an arm fell apart is a result.
        """
        clips = self.taught.decode(end.nan_to_num()).float().cpu()
        return pixels(fitted(clips, self.shape))


@dataclass(frozen=True)
class Held:
    """
    Attributes:
        asked: what all arms are asked for.
        captions, labels: of what was asked, N and (N, K).
        walk: full precision's, on the CPU; predictions are of the first clips alone.
        clips: where it ends, (N, T, H, W, C) uint8; again: from other noise.
        real: clips of the test split with these captions; other: as many of the valid split.
    """

    asked: Asked
    captions: list[str]
    labels: Tensor
    walk: Walk
    clips: Tensor
    again: Tensor
    real: Tensor
    other: Tensor


def hold(
    clips: Clips,
    taught: Teacher,
    sampling: Sampling,
    jury: Judges,
    folder: Path,
    *,
    seed: int,
    count: int,
    predicted: int,
    batch: int,
) -> Held:
    """Ask full precision, or read what it answered before a kill.

    Args:
        folder: survives a kill.
        seed: of the noise, and of the clips' order.
        count: clips, the first of the split.
        predicted: of how many the predictions are kept too.
        batch: clips at once.

    Raises:
        UserError: a split has too few clips.
    """
    if min(clips.count("test"), clips.count("valid")) < count:
        raise UserError(
            f"params.yaml: evaluate.free.clips is {count}, but the splits valid and test have "
            f"{clips.count('valid')} and {clips.count('test')} clips"
        )
    names, real, prompts, labels = clips.fixed("test")
    captions, other = clips.captions("test"), clips.fixed("valid")[1][:count]
    # Kinds of clips take turns in a split: in this order the first few are of many kinds.
    generator = torch.Generator().manual_seed(seed_of("held", seed))
    places = torch.randperm(count, generator=generator)
    ids = [names[place] for place in places.tolist()]
    asked = Asked(taught, sampling, ids, prompts[places], seed, batch, jury.shape)
    file = folder / FILE
    if not file.is_file():
        walk, again = _walked(asked, predicted)
        tensors = {name: getattr(walk, name).contiguous() for name in WALK}
        write_bytes(file, save({**tensors, "clips": asked.seen(walk.end), "again": again}))
    found = load_file(file)
    walk = Walk(**{name: found[name] for name in WALK})
    return Held(
        asked,
        [captions[place] for place in places.tolist()],
        labels[places],
        walk,
        found["clips"],
        found["again"],
        pixels(real[places]),
        pixels(other),
    )


def _walked(asked: Asked, predicted: int) -> tuple[Walk, Tensor]:
    """Full precision's walks, and its clips from other noise."""
    denoiser, noising = asked.taught.denoiser, asked.taught.noising
    # Schedulers of flow matching have no such levels; nothing is told of the noise there.
    levels = getattr(noising, "alphas_cumprod", None)
    if levels is None:
        levels = torch.zeros(noising.config.num_train_timesteps + 1)
    walks, again = [], []
    for some in asked.parts(len(asked.ids)):
        recorder = Recorder(levels, asked.sampling.guidance)
        end = asked.sample(denoiser, some, recorder)
        walk = recorder.walk(end)
        kept = max(0, min(some.stop, predicted) - some.start)
        walks.append(replace(
            walk, states=walk.states.cpu(), predictions=walk.predictions[:, :kept].cpu(),
            end=end.cpu(),
        ))  # fmt: skip
        again.append(asked.seen(asked.sample(denoiser, some, None, again=True)))
    whole = replace(
        walks[0],
        states=torch.cat([walk.states for walk in walks], 1),
        predictions=torch.cat([walk.predictions for walk in walks], 1),
        end=torch.cat([walk.end for walk in walks]),
    )
    return whole, torch.cat(again)


def along(walk: Walk, some: slice, steps: list[int]) -> Walk:
    """Part of a walk: some clips, at some steps."""
    place = torch.tensor(steps)
    return Walk(
        walk.times[place],
        walk.levels[place],
        walk.states[place][:, some],
        walk.predictions[place][:, some],
        walk.end[some],
    )
