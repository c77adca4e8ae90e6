"""Bits by layer: which widths, in which layers, and what they are on average."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import Field, model_validator
from torch import nn

from stages.core.errors import UserError
from stages.core.params import Params
from stages.quantize.layers import InputSpec, WeightSpec, quantized
from stages.quantize.swap import Rule, module_names

FULL = 16
"""Bits of what is not quantized, in averages of widths: the published models hold 16."""


Spec = TypeVar("Spec", WeightSpec, InputSpec)


class Width(Params):
    """Bits of the layers whose name matches `pattern`; None is full precision."""

    pattern: str
    weights: int | None = Field(ge=2, le=8)
    inputs: int | None = Field(ge=2, le=8)

    @model_validator(mode="after")
    def _consistent(self) -> Width:
        if self.weights is None and self.inputs is not None:
            raise ValueError("quantized inputs need a quantized weight")
        return self


def parse(name: str) -> tuple[int, int | None]:
    """Bits of weights and inputs from a name such as W4A6; A16 is None, full precision.

    Raises:
        UserError: it is no such name.
    """
    match = re.fullmatch(r"W([2-8])A([2-8]|16)", name)
    if match is None:
        raise UserError(f"'{name}' names no bits; write W4A6, W3A8, W4A16 (weights 2 to 8)")
    weights, inputs = int(match[1]), int(match[2])
    return weights, None if inputs == FULL else inputs


def plan(widths: Sequence[Width], weights: WeightSpec, inputs: InputSpec) -> tuple[Rule, ...]:
    """One rule per width, in order: the given specifications at that width's bits."""
    return tuple(
        Rule(
            pattern=width.pattern,
            weights=None if width.weights is None else _at(weights, width.weights),
            inputs=None if width.inputs is None else _at(inputs, width.inputs),
        )
        for width in widths
    )


def _at(spec: Spec, bits: int) -> Spec:
    return spec.model_copy(update={"grid": spec.grid.model_copy(update={"bits": bits})})


@dataclass(frozen=True)
class Average:
    """Mean bits of weights, and of inputs by the products they enter; unquantized counts `FULL`.

    Codes alone: what scales, zero points and branches add is in `stages.quantize.bits`.
    """

    weights: float
    inputs: float


def average(model: nn.Module, *, among: Sequence[str] | None = None) -> Average:
    """Average widths over the linear layers of `model`.

    Args:
        among: names of the layers to count; by default all of them, quantized or not. Name the
            blocks' layers to leave out embedders that no arm touches.
    """
    layers = quantized(model)
    names = [*layers, *module_names(model)] if among is None else among
    total = weights = inputs = 0
    for name in names:
        layer = layers.get(name)
        module = model.get_submodule(name)
        assert isinstance(module.in_features, int) and isinstance(module.out_features, int)
        count = module.in_features * module.out_features
        total += count
        weights += count * (FULL if layer is None else layer.weights.grid.bits)
        quant = None if layer is None else layer.inputs
        inputs += count * (FULL if quant is None else quant.grid.bits)
    if not total:
        raise ValueError("the model has no linear layer")
    return Average(weights / total, inputs / total)
