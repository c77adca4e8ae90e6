"""Layers with one input: found by running, and the same numbers as by themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stages.quantize.layers import QuantLinear, quantized
from stages.quantize.shared import share, siblings
from stages.quantize.swap import Rule, swap
from stages.quantize.transforms import Kronecker
from tests.stages.quantize.specs import inputs, noise, weights

X = noise(3, 5, 8)


class Attention(nn.Module):
    """Queries, keys and values of one tensor, and a layer of another."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.to_out, self.to_q, self.to_k, self.to_v = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        out: Tensor = self.to_out((q @ k.mT).softmax(-1) @ v)
        return out


def quantizing(bits: dict[str, int] | None = None) -> tuple[Attention, dict[str, QuantLinear]]:
    net = Attention()
    dynamic = weights(bits=4, clip="learned", symmetric=True, dynamic=True)
    rules = [
        Rule(pattern=name, weights=dynamic, inputs=inputs(bits=own, clip="learned", symmetric=True))
        for name, own in ({"to_*": 4} | (bits or {})).items()
    ]
    return net, swap(net, rules[::-1])


def test_who_has_the_same_input_is_seen_by_running() -> None:
    net, layers = quantizing()
    assert siblings(layers, lambda: net(X)) == [["to_out"], ["to_q", "to_k", "to_v"]]


def test_inputs_that_are_quantized_differently_are_not_shared() -> None:
    net, layers = quantizing({"to_v": 8})
    assert siblings(layers, lambda: net(X)) == [["to_out"], ["to_q", "to_k"], ["to_v"]]


def test_a_layer_that_is_called_twice_or_never_stays_alone() -> None:
    net, layers = quantizing()

    def run() -> None:
        net.to_q(X)
        net.to_k(X)
        net.to_k(X)

    assert siblings(layers, run) == [["to_out"], ["to_q"], ["to_k"], ["to_v"]]


def test_sharing_changes_no_number_and_adds_up_all_gradients() -> None:
    """Against layers that have the same transform and clips each by itself."""
    net, layers = quantizing()
    three = [layers[name] for name in ("to_q", "to_k", "to_v")]
    layers["to_q"].transform = Kronecker.hadamard(8)
    share(three)
    alone, separate = quantizing()
    for name in ("to_q", "to_k", "to_v"):
        separate[name].transform = Kronecker.hadamard(8)
    for layer in (*layers.values(), *separate.values()):
        layer.calibrate()
    outputs = net(X), alone(X)
    assert torch.equal(*outputs)
    for out in outputs:
        out.square().sum().backward()
    for part in ("transform", "inputs"):
        ours = list(getattr(layers["to_q"], part).parameters())
        theirs = [list(getattr(separate[n], part).parameters()) for n in ("to_q", "to_k", "to_v")]
        for place, parameter in enumerate(ours):
            wanted = torch.stack([own[place].grad for own in theirs]).sum(0)
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-5)
            assert float(wanted.abs().max()) > 0


def test_what_is_shared_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net, layers = quantizing()
    share([layers[name] for name in ("to_q", "to_k", "to_v")])
    times = []
    quantizer = layers["to_q"].inputs
    assert quantizer is not None
    quantizer.register_forward_hook(lambda *_: times.append(1))
    for _ in range(2):
        net(X)
    assert len(times) == 2 and len(quantized(net)) == 4


def test_one_layer_alone_shares_nothing() -> None:
    _, layers = quantizing()
    share([layers["to_out"]])
    assert layers["to_out"].once is None
