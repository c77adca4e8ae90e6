"""A denoiser as a graph that a runtime holds, and how near the graph's outputs stay to it.

A step of sampling is one run of the graph for one clip, both branches of guidance in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.foundations.video import diffusion
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.measure_plan import spaced
from pipelines.foundations.video.teacher import Teacher
from pipelines.foundations.video.text import Text
from stages.core.errors import UserError
from stages.core.seeding import seed_of
from stages.evaluate.diffusion import Recorder, Walk, forced

SPLIT = "test"
"""Whose prompts the graphs are judged on: nothing was calibrated on them."""
FAMILIES = {"latte": ("x", "t", "text", "mask"), "cogvideox": ("x", "t", "text")}
"""Of the networks trained here: their graphs' inputs."""


class Step(nn.Module):
    """One evaluation of a denoiser, tensors in and a tensor out."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, t: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, T, C, H, W), t (B,), text (B, L, E), mask (B, L) as numbers -> like x."""
        found: Tensor = self.denoiser(x, t, Text(text, mask))
        return found


@dataclass(frozen=True)
class Ground:
    """What graphs are judged on: full precision's walks for some held-out prompts.

    Attributes:
        names: of the clips.
        walk: see `stages.evaluate.diffusion`.
        text, empty: of the prompts, and of as many empty ones.
        guidance: 1 is none.
        inputs: names of a graph's inputs.
    """

    names: list[str]
    walk: Walk
    text: Text
    empty: Text
    guidance: float
    inputs: tuple[str, ...]

    def feed(self, clip: int, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """A graph's inputs for one clip: without and with its prompt, where there is guidance.

        Args:
            x: its state, (T, C, H, W).
            t: ().
        """
        one = slice(clip, clip + 1)
        text, x = self.text[one], x[None]
        if self.guidance != 1:
            text, x = Text.cat([self.empty[one], text]), torch.cat([x, x])
        found = {"x": x, "t": t.float().expand(len(x)).clone(), "text": text.tokens}
        if text.mask is not None:
            found["mask"] = text.mask.float()
        return tuple(found[name] for name in self.inputs)

    @property
    def example(self) -> tuple[Tensor, ...]:
        return self.feed(0, self.walk.states[0, 0], self.walk.times[0])


@dataclass(frozen=True)
class Asked:
    """Which clips and steps graphs are judged on: those of evaluate.

    Attributes:
        held: clips among which evaluate chooses, the first of the split.
        seed: of that choice, and of the noise.
        clips: that count, the first of those chosen.
        steps: of each walk, evenly spaced.
    """

    held: int
    seed: int
    clips: int
    steps: int

    @property
    def places(self) -> list[int]:
        """Numbers of the clips within the split, as `measure_held.hold` chooses them."""
        generator = torch.Generator().manual_seed(seed_of("held", self.seed))
        return torch.randperm(self.held, generator=generator)[: self.clips].tolist()


def walked(taught: Teacher, clips: Clips, steps: int, guidance: float, asked: Asked) -> Ground:
    """Walk with the teacher for some held-out clips' prompts.

    Args:
        steps: of a walk, of which those in `asked` are kept.

    Raises:
        UserError: the teacher is of a family that is not deployed whole, or there are fewer clips.
    """
    family = taught.denoiser.family
    if family not in FAMILIES:
        raise UserError(
            f"networks of the family '{family}' are not deployed whole here (their graphs pass 2 "
            "GB); leave bench.models.arms empty: blocks of published sizes are timed in any case"
        )
    ids, _, prompts, _ = clips.fixed(SPLIT)
    if max(asked.held, asked.clips) > len(ids) or asked.clips > asked.held:
        raise UserError(
            f"bench.models.clips is {asked.clips} of evaluate.free.clips, {asked.held}, of split "
            f"{SPLIT}, which has {len(ids)} clips; each must be no more than the next"
        )
    places = asked.places
    names, (text, empty) = [ids[place] for place in places], taught.read(prompts[places])
    noise = diffusion.noise_for([f"held-{name}" for name in names], taught.shape, asked.seed)
    recorder = Recorder(taught.noising.alphas_cumprod, guidance)
    end = diffusion.sample(
        taught.denoiser, taught.noising, text, empty, noise, steps, guidance, recorder
    )
    walk, looked = recorder.walk(end), torch.tensor(spaced(steps, asked.steps))
    some = {name: getattr(walk, name)[looked] for name in ("times", "levels", "states")}
    walk = replace(walk, **some, predictions=walk.predictions[looked])
    return Ground(names, walk, text, empty, guidance, FAMILIES[family])


Run = Callable[..., Tensor]
"""A graph's inputs -> its output, (B, T, C, H, W)."""


def opened(file: Path) -> Run:
    """A graph on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*given: Tensor) -> Tensor:
        feeds = {name: x.numpy() for name, x in zip(names, given, strict=True)}
        return torch.from_numpy(session.run(None, feeds)[0])

    return run


def predictions(ground: Ground, run: Run) -> Tensor:
    """What guidance makes of a graph's outputs on full precision's states, (S, clips, …)."""
    walk = ground.walk
    return torch.stack(
        [
            torch.stack([_guided(ground, run, k, x, t) for k, x in enumerate(states)])
            for states, t in zip(walk.states, walk.times, strict=True)
        ]
    )


@torch.no_grad()
def _guided(ground: Ground, run: Run, clip: int, x: Tensor, t: Tensor) -> Tensor:
    out = run(*ground.feed(clip, x, t))
    if len(out) == 1:
        return out[0]
    without, given = out
    return without + ground.guidance * (given - without)


def sqnr(ground: Ground, found: Tensor, reference: Tensor) -> list[float]:
    """10·log₁₀(|y|² / |y - ŷ|²) of predictions, the mean over steps, for each clip.

    Args:
        found, reference: of `predictions`.
    """
    walk = replace(ground.walk, predictions=reference)
    left = iter(found)
    values: Sequence[float] = forced(walk, lambda x, t: next(left)).means()["prediction"].tolist()
    return list(values)
