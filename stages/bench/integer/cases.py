"""Token counts at which a block of a published network is timed, and where memory ends that."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stages.bench.kernels.kinds import Kernel
from stages.bench.kernels.roofline import Limits
from stages.bench.kernels.shapes import PUBLISHED, Published
from stages.core.errors import UserError
from stages.quantize.layers import QuantLinear

CLIP = "tokens=clip"
"""The condition of a slice of the published clip."""


def slug(name: str) -> str:
    """A published network's name as backbones are written: CogVideoX-2b -> cogvideox-2b."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


BY_NAME = {slug(published.name): published for published in PUBLISHED}


@dataclass(frozen=True)
class Case:
    """One size of a block.

    Attributes:
        frames: groups of tokens that attend to themselves alone, where space and time are apart.
        tokens: of each group.
        seen: tokens that each attends to.
        clip: whether these are a slice of the published clip.
    """

    net: Published
    frames: int
    tokens: int
    seen: int
    clip: bool

    @property
    def backbone(self) -> str:
        return slug(self.net.name)

    @property
    def count(self) -> int:
        return self.frames * self.tokens

    @property
    def condition(self) -> str:
        return CLIP if self.clip else f"tokens={self.count}"

    @property
    def attention_gb(self) -> float:
        """10^9 bytes of all scores in float32, and of a slice's given keys and values."""
        given = 2 * self.seen * self.net.width if self.clip else 0
        return 4 * (self.net.heads * self.count * self.seen + given) / 1e9

    @property
    def macs(self) -> int:
        """Of the layers and the attention, without transforms and branches."""
        return 12 * self.count * self.net.width**2 + 2 * self.count * self.seen * self.net.width

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the graph's inputs."""
        width, heads = self.net.width, self.net.heads
        found: dict[str, tuple[int, ...]] = {"x": (self.frames, self.tokens, width)}
        if self.clip:
            found["keys"] = (heads, width // heads, self.seen)
            found["values"] = (heads, self.seen, width // heads)
        return found

    def least_ms(self, limits: Limits, layers: Iterable[QuantLinear], kernel: Kernel) -> float:
        """Of the block's layers at the machine's limits and of its attention in float32; norms,
        softmax, transforms and branches cost nothing here."""
        attention = 4 * self.count * self.seen * self.net.width / limits.float_gops * 1e-6
        return attention + sum(limits.least_ms(layer, self.count, kernel) for layer in layers)


def whole(net: Published) -> Case:
    """One block of the published clip, all of its tokens at once."""
    frames = 1 if net.attended > net.video else net.video // net.attended
    return Case(net, frames, net.attended, net.attended, clip=False)


def most(net: Published, attention_gb: float) -> int:
    """The largest number of tokens of a block whose attention takes no more than that; whole frames
    where frames attend to themselves alone."""
    room = int(attention_gb * 1e9 / (4 * net.heads))
    if room < net.attended**2:
        return math.isqrt(room)
    return min(whole(net).count, room // net.attended**2 * net.attended)


def cases(
    nets: Mapping[str, Sequence[int]], part: int, attention_gb: float
) -> tuple[list[Case], list[Case]]:
    """The sizes to be timed, and those whose attention would not fit; a network's whole clip stands
    among these whether it was asked for or not.

    Args:
        nets: published network -> tokens of whole blocks; a slice of its clip is added to each.
        part: tokens of that slice.
        attention_gb: 10^9 bytes that attention may take.

    Raises:
        UserError: no such network, or tokens that are no whole frames.
    """
    found: list[Case] = []
    for name, counts in nets.items():
        if name not in BY_NAME:
            raise UserError(f"'{name}' is no published network here: {', '.join(BY_NAME)}")
        net = BY_NAME[name]
        for tokens in counts:
            seen = min(tokens, net.attended)
            if tokens % seen:
                raise UserError(
                    f"{name}: {tokens} tokens are no whole number of frames of {net.attended}"
                )
            found.append(Case(net, tokens // seen, seen, seen, clip=False))
        found.append(Case(net, 1, min(part, net.attended), net.attended, clip=True))
        if whole(net).attention_gb > attention_gb and whole(net) not in found:
            found.append(whole(net))
    fit = [case for case in found if case.attention_gb <= attention_gb]
    return fit, [case for case in found if case.attention_gb > attention_gb]
