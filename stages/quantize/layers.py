"""A linear layer whose weight and inputs are quantized, and whatever helps it to bear that.

    Y = X̂ Ŵᵀ + b + beside(X̂),   X̂ = Q(inputs(X)),   Ŵ = Q(weights(W) + inner())

The weight W stays the teacher's throughout: with both quantizers off the layer is the teacher's,
bit for bit, without transform and branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.quantize.once import Once
from stages.quantize.quantizers import Codes, InputQuantizer, InputSpec, WeightQuantizer, WeightSpec


class QuantLinear(nn.Module):
    """Made from an `nn.Linear`, whose tensors it shares without training them.

    Attributes:
        weight: (out, in); bias: (out,) or None.
        weights: its quantizer.
        inputs: the inputs' quantizer, or None: they stay in full precision.
        transform: has inputs(x) and weights(W) with inputs(x) @ weights(W).T == x @ W.T.
        inner: gives (out, in), added to the transformed weight before it is quantized.
        beside: called with the quantized, transformed inputs; its (..., out) is added.
        once: of a layer that shares transform and inputs with others (`stages.quantize.shared`):
            what they share, and its place among them.

    After a part is attached or its start is set, call `calibrate`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        linear: nn.Linear,
        weights: WeightSpec,
        inputs: InputSpec | None,
        transform: nn.Module | None = None,
        inner: nn.Module | None = None,
        beside: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.weights_on = self.inputs_on = True
        self.adopted = False
        self.once: tuple[Once, int] | None = None
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = nn.Parameter(linear.weight.detach(), requires_grad=False)
        bias = linear.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.transform, self.inner, self.beside = transform, inner, beside
        with torch.no_grad():
            self.weights = WeightQuantizer(weights, self.target())
        self.inputs = None if inputs is None else InputQuantizer(inputs).to(self.weight.device)

    def target(self) -> Tensor:
        """What is quantized: the transformed weight plus the inner branch, (out, in)."""
        if self.adopted:
            raise RuntimeError("loaded from codes: the full-precision weight is not known")
        weight: Tensor = self.weight
        if self.transform is not None:
            weight = self.transform.weights(weight)  # type: ignore[operator]
        if self.inner is not None:
            weight = weight + self.inner()
        return weight

    @torch.no_grad()
    def calibrate(self) -> None:
        """Start the weight's quantizer anew from `target`."""
        self.weights.calibrate(self.target())

    @torch.no_grad()
    def codes(self) -> Codes:
        """What is stored in place of the weight."""
        # Never with gradients: `times_kronecker` sums in another order then, and on the edge
        # between two codes the last digit decides.
        return self.weights.codes(self.weight if self.adopted else self.target())

    def fix(self, codes: Codes | None = None) -> None:
        """Stay at `codes`, or at those of now: evaluation then quantizes no weight again."""
        self.weights.fix(self.codes() if codes is None else codes)

    def adopt(self, codes: Codes) -> None:
        """Take codes in place of the weight, which is not known any more."""
        self.weights.fix(codes)
        held = self.weights.held
        assert held is not None
        self.weight = nn.Parameter(held.to(self.weight.dtype), requires_grad=False)
        self.adopted = True

    def set_state(self, weights: bool, inputs: bool) -> None:
        """Switch quantization of weights and of inputs on and off.

        With one of them on, transform and branches act as ever. With both off the layer is the
        teacher's.
        """
        if self.adopted and not weights:
            raise RuntimeError("loaded from codes: the full-precision weight is not known")
        self.weights_on, self.inputs_on = weights, inputs

    def forward(self, x: Tensor) -> Tensor:
        if not (self.weights_on or self.inputs_on):
            return functional.linear(x, self.weight, self.bias)
        x = self.given(x)
        y = functional.linear(x, self._weight(), self.bias)
        return y if self.beside is None else y + self.beside(x)

    def given(self, x: Tensor) -> Tensor:
        """What the weight meets: transformed and, where that is on, quantized inputs, (..., in)."""
        if self.once is None:
            return self._given(x)
        once, place = self.once
        return once(x, place, (self.transform, self.inputs, self.inputs_on), self._given)

    def _given(self, x: Tensor) -> Tensor:
        x = self.prepared(x)
        if self.inputs is not None and self.inputs_on:
            x = self.inputs(x)
        return x

    def prepared(self, x: Tensor) -> Tensor:
        """What the inputs' quantizer is given: the transformed inputs, (..., in)."""
        if self.transform is None:
            return x
        prepared: Tensor = self.transform.inputs(x)  # type: ignore[operator]
        return prepared

    def _weight(self) -> Tensor:
        if not self.weights_on:
            return self.target()
        held = self.weights.held
        quantized: Tensor = self.weights(self.target() if held is None else self.weight)
        return quantized

    def knobs(self) -> dict[str, list[nn.Parameter]]:
        """What can be trained, by kind; a kind without parameters is absent.

        `scale` and `input_scale` (static steps), `clip` and `input_clip`, `rounding`, `transform`,
        `inner`, `beside`. Of a fixed layer nothing that would move its codes is among them.
        """
        inputs = self.inputs
        fixed = ("scale", "clip", "rounding", "inner") if self.weights.held is not None else ()
        found: dict[str, list[nn.Parameter | None]] = {
            "scale": [self.weights.scale],
            "clip": _parameters(self.weights.clip),
            "rounding": _parameters(self.weights.rounding),
            "input_scale": [] if inputs is None else [inputs.scale],
            "input_clip": [] if inputs is None else _parameters(inputs.clip),
            "transform": _parameters(self.transform),
            "inner": _parameters(self.inner),
            "beside": _parameters(self.beside),
        }
        trained = {k: [p for p in v if p is not None and p.requires_grad] for k, v in found.items()}
        return {kind: own for kind, own in trained.items() if own and kind not in fixed}

    def extra_repr(self) -> str:
        inputs = "full" if self.inputs is None else f"{self.inputs.grid.bits} bits"
        weights = f"{self.weights.grid.bits} bits"
        return f"{self.in_features} -> {self.out_features}, weights {weights}, inputs {inputs}"


def _parameters(module: nn.Module | None) -> list[nn.Parameter | None]:
    return [] if module is None else [*module.parameters()]


def quantized(model: nn.Module) -> dict[str, QuantLinear]:
    """Name -> every quantized layer of `model`, in the order of its modules."""
    return {name: m for name, m in model.named_modules() if isinstance(m, QuantLinear)}


def set_state(model: nn.Module, weights: bool, inputs: bool) -> None:
    """`QuantLinear.set_state` for all layers of `model`."""
    for layer in quantized(model).values():
        layer.set_state(weights, inputs)


def fix_all(model: nn.Module) -> None:
    """`QuantLinear.fix` for all layers of `model`."""
    for layer in quantized(model).values():
        layer.fix()


def knobs(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """`QuantLinear.knobs` of all layers of `model`, joined by kind, each parameter once."""
    found: dict[str, dict[int, nn.Parameter]] = {}
    for layer in quantized(model).values():
        for kind, parameters in layer.knobs().items():
            found.setdefault(kind, {}).update({id(p): p for p in parameters})
    return {kind: list(parameters.values()) for kind, parameters in found.items()}


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Within the block, `model` is the teacher; afterwards every layer is as it was."""
    before = [(layer, layer.weights_on, layer.inputs_on) for layer in quantized(model).values()]
    try:
        set_state(model, weights=False, inputs=False)
        yield
    finally:
        for layer, weights, inputs in before:
            layer.set_state(weights, inputs)
