"""Layers by name: which are taken, which rules are refused, and the way back."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from stages.core.errors import UserError
from stages.quantize.layers import QuantLinear
from stages.quantize.swap import Rule, module_names, replace, restore, swap
from tests.stages.quantize.specs import Net, Thin, inputs, noise, weights

LAYERS = ["to_q", "to_out.0", "ff.0", "ff.2"]
BLOCKS = [f"blocks.{block}.{layer}" for block in (0, 1) for layer in LAYERS]


def rule(pattern: str, bits: int | None = 4) -> Rule:
    if bits is None:
        return Rule(pattern=pattern, weights=None, inputs=None)
    return Rule(pattern=pattern, weights=weights(bits=bits), inputs=inputs())


def test_the_first_matching_rule_wins_and_the_rest_stay() -> None:
    net = Net()
    assert module_names(net) == ["embed", *BLOCKS, "head"]
    plan = [rule("blocks.1.to_q", None), rule("blocks.*.ff.*", 8), rule("blocks.*", 3)]
    made = swap(net, plan)
    bits = {name: layer.weights.grid.bits for name, layer in made.items()}
    assert bits == {
        "blocks.0.to_q": 3,
        "blocks.0.to_out.0": 3,
        "blocks.0.ff.0": 8,
        "blocks.0.ff.2": 8,
        "blocks.1.to_out.0": 3,
        "blocks.1.ff.0": 8,
        "blocks.1.ff.2": 8,
    }
    assert list(made) == [name for name in BLOCKS if name in made]
    assert module_names(net) == ["embed", "blocks.1.to_q", "head"]
    assert all(net.get_submodule(name) is layer for name, layer in made.items())


def test_a_rule_that_takes_nothing_is_refused_and_nothing_is_swapped() -> None:
    net = Net()
    with pytest.raises(UserError, match=r"'blocks\.\*\.to_k'; the nearest names are blocks"):
        swap(net, [rule("blocks.*.to_q"), rule("blocks.*.to_k")])
    with pytest.raises(UserError, match=r"'blocks\.0\.ff\.\*' never acts"):
        swap(net, [rule("blocks.*"), rule("blocks.0.ff.*")])
    with pytest.raises(UserError, match="has no linear layer"):
        swap(nn.Sequential(nn.ReLU()), [rule("*")])
    wide = Rule(
        pattern="*.ff.*",
        weights=weights(granularity="group", group=16),
        inputs=None,
    )
    with pytest.raises(UserError, match=r"takes 'blocks\.0\.ff\.0', but rows of 8"):
        swap(net, [wide])
    with pytest.raises(ValidationError, match="need a quantized weight"):
        Rule(pattern="*", weights=None, inputs=inputs())
    assert module_names(net) == ["embed", *BLOCKS, "head"]


def test_restored_the_model_is_the_teacher_again() -> None:
    net, x = Net(), noise(2, 4, 3)
    teacher, keys = net(x), list(net.state_dict())
    layers = swap(net, [rule("*")])
    layers["head"].beside = Thin(8, 3)
    assert not torch.allclose(net(x), teacher)
    restore(net)
    assert torch.equal(net(x), teacher) and list(net.state_dict()) == keys
    assert all(p.requires_grad for p in net.parameters())
    layers = swap(net, [rule("embed")])
    layers["embed"].adopt(layers["embed"].codes())
    with pytest.raises(RuntimeError, match="'embed' was loaded from codes"):
        restore(net)


def test_a_shared_layer_stays_shared() -> None:
    net = Net()
    net.blocks[1].to_q = net.blocks[0].to_q
    made = swap(net, [rule("blocks.*")])
    assert made["blocks.0.to_q"] is made["blocks.1.to_q"] is net.blocks[1].to_q
    restore(net)
    assert isinstance(net.blocks[0].to_q, nn.Linear)
    assert net.blocks[0].to_q is net.blocks[1].to_q


def test_parts_of_a_quantized_layer_are_no_layers_of_the_model() -> None:
    net = Net()
    layers = swap(net, [rule("head")])
    layers["head"].beside = nn.Linear(8, 3)
    assert "head.beside" not in module_names(net)
    assert isinstance(net.head, QuantLinear)


class Attending(nn.Module):
    """Torch's own attention behind a plain layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)


def test_a_layer_whose_weight_attention_reads_without_calling_it_is_refused() -> None:
    net = Attending()
    with pytest.raises(UserError, match=r"takes 'attention\.out_proj', but MultiheadAttention"):
        swap(net, [rule("*")])
    assert module_names(net) == ["first", "attention.out_proj"]  # nothing was swapped
    assert list(swap(net, [rule("attention.out_proj", None), rule("*")])) == ["first"]

    class Calling(nn.MultiheadAttention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            found: torch.Tensor = self.out_proj(x)
            return found

    assert list(swap(nn.Sequential(Calling(8, 2)), [rule("*")])) == ["0.out_proj"]


@pytest.mark.parametrize("child", ["linear1", "linear2"])
def test_a_layer_that_torchs_fast_path_would_not_call_is_refused(child: str) -> None:
    net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    with pytest.raises(
        UserError, match=f"'0.{child}', but TransformerEncoderLayer .* leave it out"
    ):
        swap(net, [rule(f"0.{child}")])
    assert isinstance(net[0].get_submodule(child), nn.Linear)
    decoder = nn.Sequential(nn.TransformerDecoderLayer(8, 2, 16))  # has no such path
    assert list(swap(decoder, [rule(f"0.{child}")])) == [f"0.{child}"]


def test_a_model_that_is_itself_a_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="wrap it"):
        replace(nn.Linear(2, 2), "", nn.Linear(2, 2))
