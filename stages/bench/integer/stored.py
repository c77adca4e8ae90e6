"""True bits of published networks, from the shapes of their layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import nn

from stages.bench.kernels.shapes import Published, Shape
from stages.quantize import bits
from stages.quantize.bits import Ledger, Stored
from stages.quantize.layers import QuantLinear

Make = Callable[[nn.Linear, Shape], QuantLinear]
"""Makes an arm's layer of a plain one without memory, whose values it must not need."""


Owners = Callable[[Shape], int]
"""How many of a shape's layers have a transform and clips of their own; others share them."""


def alone(shape: Shape) -> int:
    """No layer shares anything."""
    return shape.count


def stored(published: Published, make: Make, owners: Owners = alone, *, floats: int = 16) -> Stored:
    """What a network takes when all layers of its blocks are an arm's.

    Scales, zero points, learned clips, transforms and branches count, and all else that the network
    holds, biases included, in full precision.

    Args:
        floats: bits of every floating-point number.
    """
    ledger = Ledger(full=published.others * floats)
    for shape in published.layers:
        with torch.device("meta"):
            linear = nn.Linear(shape.columns, shape.rows, bias=False)
        holder = nn.ModuleDict({"layer": make(linear, shape)})
        one, own = bits.stored(holder, floats=floats, dense=True).ledger, owners(shape)
        counted = _times(one, shape.count)
        ledger += replace(counted, inputs=own * one.inputs, transforms=own * one.transforms)
    return Stored(ledger, published.weights, published.weights + published.others)


def _times(ledger: Ledger, count: int) -> Ledger:
    return Ledger(**{field.name: count * getattr(ledger, field.name) for field in fields(ledger)})
