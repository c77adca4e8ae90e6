"""The two networks that judge clips: one names what is seen, one gives features for distances.

Both are small and see real training clips alone; they share no weights, so that a clip which
fools the one need not fool the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import read_json

CLASSIFIER, FEATURES = "classifier", "features"
BATCH = 128  # clips judged at once; decides the speed alone


class Numbers(core.Params):
    """
    Attributes:
        channels: of the first convolution; the second and third have two and four times as many.
        embed: width of the vector that a clip becomes.
        dropout: on that vector.
    """

    channels: int = Field(ge=4, multiple_of=4)
    embed: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)


class Trunk(nn.Sequential):
    """Clips (B, T, C, H, W) in [-1, 1] to vectors (B, E).

    Three convolutions over space and time, halving space twice and time once, down to 2 × 4 × 4
    cells: where things are, and when, is still there to be read.
    """

    def __init__(self, channels: int, numbers: Numbers) -> None:
        c = numbers.channels
        super().__init__(
            *_layer(channels, c, 1, 1),
            *_layer(c, 2 * c, 1, 2),
            *_layer(2 * c, 4 * c, 2, 2),
            nn.AdaptiveAvgPool3d((2, 4, 4)),
            nn.Flatten(),
            nn.Linear(4 * c * 32, numbers.embed),
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2))  # type: ignore[no-any-return]


def _layer(inner: int, outer: int, time: int, space: int) -> list[nn.Module]:
    convolution = nn.Conv3d(inner, outer, 3, stride=(time, space, space), padding=1)
    return [convolution, nn.GroupNorm(4, outer), nn.GELU()]


class Classifier(nn.Module):
    """Names what a clip shows, in each way that clips are told apart (digit, direction)."""

    def __init__(self, channels: int, classes: Mapping[str, int], numbers: Numbers) -> None:
        super().__init__()
        self.trunk = Trunk(channels, numbers)
        self.drop = nn.Dropout(numbers.dropout)
        self.heads = nn.ModuleDict({n: nn.Linear(numbers.embed, k) for n, k in classes.items()})

    def forward(self, x: Tensor) -> list[Tensor]:
        """Scores (B, K) of each column of the labels, for clips (B, T, C, H, W) in [-1, 1]."""
        hidden = self.drop(functional.gelu(self.trunk(x)))
        return [head(hidden) for head in self.heads.values()]

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, summed over the columns of labels (B, K)."""
        pairs = zip(self(x), labels.T, strict=True)
        return torch.stack([functional.cross_entropy(s, truth) for s, truth in pairs]).sum()


class Features(nn.Module):
    """Vectors in which similar clips are near each other.

    Trained to name what a clip shows and to draw it again from its vector, so that the vector
    tells both the kind of a clip and its looks: a smeared 3 that still counts as a 3 moves it.
    """

    def __init__(
        self, shape: tuple[int, ...], classes: Mapping[str, int], numbers: Numbers
    ) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = Trunk(shape[1], numbers)
        self.heads = nn.ModuleDict({n: nn.Linear(numbers.embed, k) for n, k in classes.items()})
        size = int(torch.Size(shape).numel())
        self.draw = nn.Sequential(
            nn.Linear(numbers.embed, 256), nn.GELU(), nn.Linear(256, size), nn.Tanh()
        )
        self.register_buffer("mean", torch.zeros(numbers.embed))
        self.register_buffer("std", torch.ones(numbers.embed))

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (B, E) of clips, in standard deviations of the training clips' vectors."""
        return (self.trunk(x) - self.mean) / self.std  # type: ignore[operator]

    def loss(self, x: Tensor, labels: Tensor, weight: float) -> Tensor:
        """Cross-entropy of the labels, and `weight` times the squared error of the redrawn clips
        as a part of the clips' variance."""
        vector = self.trunk(x)
        heads = zip(self.heads.values(), labels.T, strict=True)
        named = torch.stack([functional.cross_entropy(h(vector), truth) for h, truth in heads])
        drawn = functional.mse_loss(self.draw(vector), x.flatten(1))
        return named.sum() + weight * drawn / x.var()

    @torch.no_grad()
    def settle(self, x: Tensor) -> None:
        """Take the scale of the vectors from these clips (N, T, C, H, W)."""
        self.mean.zero_()  # type: ignore[operator]
        self.std.fill_(1)  # type: ignore[operator]
        vectors = batched(self, x)
        self.mean.copy_(vectors.mean(0))  # type: ignore[operator]
        self.std.copy_(vectors.std(0).clamp(min=1e-6))  # type: ignore[operator]


class Judges:
    """Both networks, frozen, as papers use them.

    Attributes:
        shape: (T, C, H, W) of the clips they were trained on; others are scaled to it.
        classes: what clips are told apart by -> how many classes there are.
    """

    def __init__(self, classifier: Classifier, features: Features) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.features = features.eval().requires_grad_(False)
        self.shape = features.shape
        self.classes = list(classifier.heads)

    @staticmethod
    def load(folder: Path, device: torch.device | None = None) -> Judges:
        """Open the output of the stage `judge`.

        Raises:
            UserError: it is not there.
        """
        if not (folder / "judges.json").is_file():
            raise UserError(f"{folder} holds no judges: judges.json is missing; `dvc repro`")
        about = read_json(folder / "judges.json")
        classifier, features = build(about)
        for name, net in ((CLASSIFIER, classifier), (FEATURES, features)):
            net.load_state_dict(load_file(folder / name / "model.safetensors"))
        return Judges(classifier.to(device), features.to(device))

    def named(self, clips: Tensor) -> Tensor:
        """Classes (N, K) that the classifier gives clips (N, T, C, H, W) in [-1, 1]."""
        columns = [
            [scores.argmax(1) for scores in self.classifier(part)] for part in self._parts(clips)
        ]
        return torch.cat([torch.stack(each, 1) for each in columns]).cpu()

    def vectors(self, clips: Tensor) -> Tensor:
        """Features (N, E) of clips (N, T, C, H, W) in [-1, 1]."""
        return torch.cat([self.features(part).cpu() for part in self._parts(clips)])

    def _parts(self, clips: Tensor) -> list[Tensor]:
        place = self.features.mean.device
        return [fitted(part, self.shape).to(place) for part in clips.split(BATCH)]  # type: ignore[arg-type]


def fitted(clips: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Clips (N, T, C, H, W) in the judges' shape: frames and pixels interpolated, colours
    averaged; unchanged where they have that shape."""
    if tuple(clips.shape[1:]) == tuple(shape):
        return clips
    frames, channels, height, width = shape
    x = clips.transpose(1, 2)
    if channels == 1:
        x = x.mean(1, keepdim=True)
    x = functional.interpolate(x, (frames, height, width), mode="trilinear", align_corners=False)
    return x.expand(-1, channels, -1, -1, -1).transpose(1, 2)


def build(about: Mapping[str, Any]) -> tuple[Classifier, Features]:
    """Both with fresh weights, from torch's global generator.

    Args:
        about: `shape`, [T, C, H, W]; `classes`, name -> count; the `Numbers` of each network.
    """
    shape, classes = tuple(about["shape"]), about["classes"]
    return (
        Classifier(shape[1], classes, Numbers.model_validate(about[CLASSIFIER])),
        Features(shape, classes, Numbers.model_validate(about[FEATURES])),
    )


@torch.no_grad()
def batched(net: nn.Module, x: Tensor) -> Tensor:
    """net(x) over many clips."""
    return torch.cat([net(part) for part in x.split(BATCH)])
