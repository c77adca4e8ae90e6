"""What an update of a block costs beside the full-precision block's own pass, for bench.

Blocks of several widths are built with random weights, since the share of what reconstruction adds
falls with the width.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import count

import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.model import Joint, Shape, build
from pipelines.foundations.video.text import Text
from pipelines.s2q_vdit import blocks, nets, quantize, tokens
from pipelines.s2q_vdit.base import Base
from pipelines.s2q_vdit.blocks import Course, Given
from pipelines.s2q_vdit.plan import prepare
from stages.bench import ratio
from stages.bench.ratio import Ratio
from stages.core.params import Params
from stages.core.seeding import seed_all
from stages.quantize.capture import capture
from stages.quantize.reconstruct import Loss, ReconstructSpec, learning
from stages.quantize.swap import restore

WORDS = 9
"""Tokens of text beside the video's."""


class Size(Params):
    """
    Attributes:
        width: of a token.
        heads: of attention.
        frames, side: of a clip in tokens.
    """

    width: int = Field(ge=16, multiple_of=16)
    heads: int = Field(ge=1)
    frames: int = Field(ge=1)
    side: int = Field(ge=1)

    @property
    def name(self) -> str:
        return f"width-{self.width}"


def measure(size: Size, params: quantize.Params, bits: str, *, turns: int) -> Ratio:
    """`of_update` for a joint block of this size on random activations, all tokens alike.

    Raises:
        UserError: the sizes do not go together, or a pattern matches no layer.
    """
    seed_all("bench", size.name)
    base, course = params.variant.base, params.course
    net, given = _block(size, course.batch)
    (name,) = nets.block_names(net)
    prepare(net, params.layers, base, bits)
    least, weighing = params.variant.least, None
    if least is not None:
        weighing = tokens.with_text(given.received, given.video, least, params.text)
    return of_update(
        net.get_submodule(name), name, given, base, weighing, params.text, course, turns=turns
    )


def _block(size: Size, rows: int) -> tuple[Denoiser, Given]:
    """A network of one block, and what it was given and gave."""
    shape = Shape(frames=size.frames, channels=1, size=size.side, words=WORDS, text=16)
    numbers = Joint(net="cogvideox", width=size.width, heads=size.heads, layers=1, patch=1)
    net = build(numbers, shape).eval()
    for module in net.modules():  # Fresh networks are silent: all their gradients vanish.
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    net.requires_grad_(False)
    (name,) = nets.block_names(net)
    x = torch.randn(rows, size.frames, 1, size.side, size.side)
    words = Text(torch.randn(rows, WORDS, shape.text))
    with capture(net, [name], shared=nets.layout(net).shared) as records, torch.no_grad():
        net(x, torch.full((rows,), 100), words)
    everything = size.frames * size.side**2 + WORDS
    return net, Given(records[name], torch.ones(rows, everything), [0] * rows)


def of_update(
    block: nn.Module,
    name: str,
    given: Given,
    base: Base,
    weighing: Tensor | None,
    text: tokens.Text,
    course: Course,
    *,
    turns: int,
) -> Ratio:
    """Updates of `blocks.quantize` against passes of the block that it started from.

    A plain pass is forward and backward of one batch through the full-precision block, with
    gradients of all its own parameters: what a step of training it would cost without the
    optimiser. An update is all that reconstruction does in one: rows, forward, loss, backward,
    optimiser.

    Args:
        block: with quantized layers as `plan.prepare` leaves them; its transforms learn on.
        turns: updates and passes that count.
    """
    original = deepcopy(block)
    restore(original)
    original.requires_grad_(True)
    blocks.start(block, name, given, base, course.look, seed=0)
    goal = tokens.loss(weighing, text)
    spec = ReconstructSpec(
        steps=turns + 1, batch=course.batch, weight_decay=course.weight_decay,
        final=course.final, clip=course.norm,
    )  # fmt: skip
    numbers, rows = count(1), list(range(min(course.batch, len(given.records))))
    groups = blocks.groups(block, course)
    with learning(block, given.records, groups, goal, spec, name=name, seed=0) as step:
        return ratio.measure(
            lambda: _pass(original, given, rows, goal), lambda: step(next(numbers)), turns
        )


def _pass(block: nn.Module, given: Given, rows: list[int], goal: Loss) -> None:
    arguments, target = given.records.batch(rows, next(block.parameters()).device)
    block.zero_grad(set_to_none=True)
    # The block gives its target, and products of vanishing gradients would take another time.
    away = tuple(part + 1 for part in target) if isinstance(target, tuple) else target + 1
    goal(arguments.call(block), away, torch.tensor(rows)).backward()
