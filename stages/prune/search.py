"""Learning which channels matter: the mask search of SepPrune, with weights frozen or learned too.

SepPrune (arXiv 2505.12079), equations 5 to 7. The net stays in eval mode, so that dropout does not
disturb the search, and its norms take their statistics over kept channels, so that what is learned
is what is deployed (the paper masks after the norm; see `masks.masked`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.core.params import Params
from stages.core.seeding import seed_of
from stages.prune.groups import ChannelGroup
from stages.prune.masks import draw, gumbel, masked
from stages.teach.loop import TrainSpec, fit


class SearchSpec(Params):
    """How masks are learned.

    `threshold` is the paper's epsilon; `init_low` and `init_high` bound the uniform start of
    alpha, a value before the sigmoid.
    """

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)
    tau: float = Field(gt=0)
    threshold: float = Field(gt=0, lt=1)
    clip: float = Field(gt=0)
    init_low: float
    init_high: float


class MaskSearch(nn.Module):
    """A net and one importance alpha per channel of its groups.

    Attributes:
        alpha: (sum of C,) all groups' importances, in the groups' order.
        last: (sum of C,) the mask of the last forward draw, which the released code deploys.
    """

    def __init__(
        self, net: nn.Module, groups: Sequence[ChannelGroup], spec: SearchSpec, seed: int
    ) -> None:
        super().__init__()
        self.net, self.groups, self.spec = net, tuple(groups), spec
        self.sizes = [group.size for group in groups]
        generator = torch.Generator().manual_seed(seed_of("alpha", seed))
        start = torch.rand(sum(self.sizes), generator=generator)
        self.alpha = nn.Parameter(spec.init_low + (spec.init_high - spec.init_low) * start)
        self.last = nn.Buffer(torch.ones_like(start))
        self.seed, self.scale = seed, 1.0

    def importance(self) -> Tensor:
        """Alpha, (sum of C,). Adam's steps reach it multiplied by `scale`, its gradient as is."""
        return self.alpha + (self.scale - 1.0) * self.alpha.detach()

    def masks(self, draw_name: int | str) -> dict[str, Tensor]:
        """The masks of one draw of the noise: group name -> (C,), a pure function of the name."""
        generator = torch.Generator().manual_seed(seed_of("noise", self.seed, draw_name))
        noise = gumbel(sum(self.sizes), generator).to(self.alpha.device)
        return self.by_group(draw(self.importance(), noise, self.spec.tau, self.spec.threshold))

    def by_group(self, values: Tensor) -> dict[str, Tensor]:
        """Split (sum of C,) into group name -> (C,)."""
        parts = values.split(self.sizes)
        return {group.name: part for group, part in zip(self.groups, parts, strict=True)}

    def forward(self, mix: Tensor, step: int) -> Tensor:
        """The net's output on `mix` under the masks drawn for update `step`."""
        masks = self.masks(step)
        self.last.copy_(torch.cat(list(masks.values())).detach())
        with masked(self.net, self.groups, masks):
            output: Tensor = self.net(mix)
        return output


def learn_masks(
    net: nn.Module,
    groups: Sequence[ChannelGroup],
    spec: SearchSpec,
    loss: Callable[[Callable[[Tensor], Tensor], int], Tensor],
    *,
    job: Any,
    name: str,
    seed: int,
    weights_lr: float | None = None,
) -> MaskSearch:
    """Learn alpha by `spec.steps` updates of Adam; a killed search goes on where it was.

    Args:
        net: the full-size net; its weights stay unless `weights_lr` is given.
        loss: loss(forward, step) for step 1, 2, …; draws its own batch and calls forward(mix).
        name: names the unit of work for a resume.
        weights_lr: learning rate of the net's weights, to learn them together with the masks.

    Returns:
        The search after its last update.
    """
    joint = weights_lr is not None
    search = MaskSearch(net.requires_grad_(joint), groups, spec, seed).to(job.device)
    if weights_lr is not None:
        # Adam steps by its rate whatever the size of a gradient. So one optimiser at the weights'
        # rate serves both: alpha is held divided by the ratio of the rates, and read multiplied.
        search.scale = spec.lr / weights_lr
        search.alpha.data /= search.scale
    fit(
        search,
        lambda model, step: loss(lambda mix: model(mix, step), step),
        _train_spec(spec, spec.lr if weights_lr is None else weights_lr),
        job=job,
        name=name,
        seed=seed,
        training=False,
    )
    return search


def _train_spec(spec: SearchSpec, lr: float) -> TrainSpec:
    return TrainSpec(
        steps=spec.steps, epochs=None, batch=spec.batch, optimizer="adam", lr=lr, weight_decay=0.0,
        schedule="constant", warmup=0, plateau_patience=1, plateau_threshold=0.0, clip=spec.clip,
        ema=0.0, validate_every=spec.steps,
    )  # fmt: skip
