"""What a quantized model takes to store, to the bit: everything that its file holds.

Codes are only part of it: steps, zero points, transforms that are applied at run time, branches
beside the layers, biases and every layer that stays in full precision count as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from torch import Tensor, nn

from stages.quantize import pack
from stages.quantize.grids import Grid
from stages.quantize.layers import quantized


@dataclass(frozen=True)
class Ledger:
    """Bits by what they are for.

    Attributes:
        codes, scales, zeros: of quantized weights.
        biases: of quantized layers.
        inputs: static steps and learned clips of inputs.
        transforms, beside: what is applied at run time.
        full: all other tensors of the model.
    """

    codes: int = 0
    scales: int = 0
    zeros: int = 0
    biases: int = 0
    inputs: int = 0
    transforms: int = 0
    beside: int = 0
    full: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: Ledger) -> Ledger:
        names = [field.name for field in fields(self)]
        return Ledger(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class Stored:
    """A model's ledger beside what it replaces.

    Attributes:
        ledger: bits by purpose.
        weights: number of quantized weights.
        values: numbers that the model holds unquantized: weights, biases, full tensors.
    """

    ledger: Ledger
    weights: int
    values: int

    @property
    def per_weight(self) -> float:
        """Bits per quantized weight, with all that quantization adds; without biases and `full`."""
        added = self.ledger.total - self.ledger.biases - self.ledger.full
        return added / self.weights

    @property
    def per_value(self) -> float:
        """Bits per number of the unquantized model."""
        return self.ledger.total / self.values

    def compression(self, bits: int) -> float:
        """How many times smaller than the unquantized model with numbers of `bits`."""
        return bits / self.per_value


def weight_bits(rows: int, columns: int, grid: Grid, *, floats: int = 32, dense: bool) -> Ledger:
    """Codes, scales and zero points of one weight (rows, columns).

    Args:
        floats: bits of a scale.
        dense: whether 3-, 5-, 6- and 7-bit codes lie densely, or in the containers of kernels.
    """
    width = grid.bits if dense else pack.container(grid.bits)
    count = 1 if grid.granularity == "tensor" else rows * grid.groups(columns)
    return Ledger(
        codes=8 * pack.size(rows * columns, width),
        scales=count * floats,
        zeros=0 if grid.symmetric else 8 * pack.size(count, width),
    )


def stored(model: nn.Module, *, floats: int | None = None, dense: bool) -> Stored:
    """What `stages.quantize.store.save` writes of `model`, without its header.

    Args:
        floats: bits of every floating-point number; as they are by default. 16 gives what the
            published sizes count.
        dense: see `weight_bits`.
    """
    ledger, weights, values = Ledger(), 0, 0
    owner = owners(model)
    own = {key: state(part) if owner[key] == key[0] else {} for key, part in parts(model).items()}
    for name, layer in quantized(model).items():
        rows, columns = layer.out_features, layer.in_features
        weights += rows * columns
        bias = [] if layer.bias is None else [layer.bias]
        values += sum(tensor.numel() for tensor in bias)
        scale = 8 * layer.weights.step_type(layer.weight).itemsize if floats is None else floats
        ledger += weight_bits(rows, columns, layer.weights.grid, floats=scale, dense=dense)
        ledger += Ledger(
            biases=_bits(bias, floats),
            inputs=_bits(own[name, "inputs"].values(), floats),
            transforms=_bits(own[name, "transform"].values(), floats),
            beside=_bits(own[name, "beside"].values(), floats),
        )
    rest = full(model)
    values += sum(t.numel() for t in rest.values() if t.is_floating_point())
    ledger += Ledger(full=_bits(rest.values(), floats))
    return Stored(ledger, weights, weights + values)


PARTS = ("inputs", "transform", "beside")


def parts(model: nn.Module) -> dict[tuple[str, str], nn.Module | None]:
    """(layer's name, one of `PARTS`) -> what the layer has of the kind, by name."""
    found = sorted(quantized(model).items())
    return {(name, part): getattr(layer, part) for name, layer in found for part in PARTS}


def owners(model: nn.Module) -> dict[tuple[str, str], str]:
    """The first layer, by name, that has a part: itself, where it shares it with none before it."""
    first: dict[nn.Module, str] = {}
    found = parts(model).items()
    return {k: k[0] if part is None else first.setdefault(part, k[0]) for k, part in found}


def state(part: nn.Module | None) -> dict[str, Tensor]:
    """A part's tensors, none of an absent one."""
    return {} if part is None else part.state_dict()


def full(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors outside quantized layers, under whichever names it holds them."""
    layers = set(quantized(model).values())
    found = model.named_modules(remove_duplicate=False)
    inside = tuple(f"{name}." if name else "" for name, module in found if module in layers)
    return {key: t for key, t in model.state_dict().items() if not key.startswith(inside)}


def _bits(tensors: Iterable[Tensor], floats: int | None) -> int:
    total = 0
    for tensor in tensors:
        own = 8 * tensor.element_size()
        total += tensor.numel() * (floats if floats and tensor.is_floating_point() else own)
    return total
