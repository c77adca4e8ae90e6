"""The base quantizer on which selection and weighing sit, and those of the baselines.

    X̃ = (X·R) · diag(1/c),   W̃ = (W·R⁻ᵀ) · diag(c),   Ŷ = Q(X̃)·Q(W̃)ᵀ + b

symmetric throughout, a step per output channel and per token, recomputed at every call
(S²Q-VDiT, arXiv 2508.04016, appendix A). Rotation comes before scale on both sides, as in the
release that the authors share it with. A rotation that is learned freely is no rotation any more,
so it has its inverse on the weight's side, and as in FlatQuant (arXiv 2410.09426) it is a Kronecker
product of two small matrices: in·(a + b) products a token. The paper's own form is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from stages.core.params import Params
from stages.core.seeding import seed_of
from stages.quantize.grids import Grid
from stages.quantize.hadamard import factors, signs
from stages.quantize.layers import QuantLinear
from stages.quantize.quantizers import InputSpec, WeightSpec
from stages.quantize.shared import share
from stages.quantize.smooth import balance_scales, smooth_scales
from stages.quantize.transforms import Chain, Diagonal, Kronecker, Rotation

Salience = Callable[[], Mapping[str, Tensor]]
"""Asks for the largest magnitudes of each layer's (transformed) inputs: name -> (steps, in), a row
a denoising step."""


class Base(Params):
    """
    Attributes:
        rotation: none, a Hadamard matrix with random signs, or one from which it is learned.
        scale: none; SmoothQuant's (`smooth`), PTQ4DiT's (`balanced`), or learned from the first.
        alpha: SmoothQuant's exponent; only with a scale that starts as its.
        clip: the extent, or a learned share of it, of weights and inputs.
        group: inputs of a layer that share a step, of weights and of each token; null for a step
            a row.
        rounding: to the nearest, or by GPTQ.
    """

    rotation: Literal["none", "hadamard", "learned"]
    scale: Literal["none", "smooth", "balanced", "learned"]
    alpha: float | None = Field(ge=0, le=1)
    clip: Literal["max", "learned"]
    group: int | None = Field(ge=1)
    rounding: Literal["nearest", "gptq"]

    @model_validator(mode="after")
    def _consistent(self) -> Base:
        if (self.alpha is None) == (self.scale in ("smooth", "learned")):
            raise ValueError("alpha belongs to the scales 'smooth' and 'learned', and only there")
        return self

    @property
    def learns(self) -> bool:
        return "learned" in (self.rotation, self.scale, self.clip)

    @property
    def sees(self) -> bool:
        """Whether it asks anything of calibration data."""
        return self.learns or self.scale != "none" or self.rounding == "gptq"

    def weights(self) -> WeightSpec:
        """For 8 bits; `mixed.plan` sets those of each layer."""
        return WeightSpec(grid=self._grid("channel"), clip=self.clip, norm=None, rounding="nearest")

    def inputs(self) -> InputSpec:
        return InputSpec(grid=self._grid("token"), clip=self.clip)

    def _grid(self, granularity: Literal["channel", "token"]) -> Grid:
        return Grid(
            bits=8,
            symmetric=True,
            granularity=granularity if self.group is None else "group",
            group=self.group,
            dynamic=True,
        )


def attach(
    layers: Mapping[str, QuantLinear],
    groups: Sequence[Sequence[str]],
    base: Base,
    salience: Salience,
    seed: int,
) -> None:
    """Give layers the transform of `base` at its start, and calibrate them.

    Args:
        groups: names of layers that are given the same tensor, each layer in one group; they share
            transform and clip of the inputs, as in FlatQuant.
        salience: asked once the rotation stands, and only where there is a scale.
        seed: of the random signs, with the name of a group's first layer.
    """
    members = [[layers[name] for name in group] for group in groups]
    for group, own in zip(groups, members, strict=True):
        rotation = _rotation(base, own[0].in_features, seed_of("rotation", seed, group[0]))
        own[0].transform = None if rotation is None else Chain([rotation]).to(own[0].weight.device)
        share(own)
    if base.scale != "none":
        found = salience()
        for group, own in zip(groups, members, strict=True):
            weight = torch.cat([layer.target().detach() for layer in own])
            part = Diagonal(_scale(base, found[group[0]], weight), learned=base.scale == "learned")
            before = [] if own[0].transform is None else [*own[0].transform.parts]  # type: ignore[misc]
            own[0].transform = Chain([*before, part]).to(weight.device)
            share(own)
    for layer in layers.values():
        layer.calibrate()


def empty(base: Base, size: int) -> nn.Module:
    """A transform of `base` for `size` inputs, to be filled from a file."""
    rotation = _rotation(base, size, 0)
    parts = [] if rotation is None else [rotation]
    if base.scale != "none":
        parts.append(Diagonal(torch.ones(size), learned=base.scale == "learned"))
    return Chain(parts)


def _rotation(base: Base, size: int, seed: int) -> nn.Module | None:
    generator = torch.Generator().manual_seed(seed)
    if base.rotation == "none":
        return None
    if base.rotation == "hadamard":
        return Rotation.hadamard(size, generator)
    # Signs of both factors, so that what is learned starts as random as a fixed rotation is.
    left, right = (matrix * signs(len(matrix), generator)[:, None] for matrix in factors(size))
    return Kronecker(left, right)


def _scale(base: Base, salience: Tensor, weight: Tensor) -> Tensor:
    if base.scale == "balanced":
        return balance_scales(salience, weight)
    assert base.alpha is not None
    return smooth_scales(salience.amax(0), weight, base.alpha)
