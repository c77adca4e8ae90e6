"""Which layers are quantized."""

import pytest

from pipelines.s2q_vdit.plan import Layers, linears, prepare
from stages.core.errors import UserError
from stages.quantize import mixed
from tests.pipelines.s2q_vdit import small


def test_layers_of_the_blocks_and_none_outside() -> None:
    denoiser = small.denoiser(2)
    layers = [
        Layers(pattern="norm?.linear", inputs=False),
        Layers(pattern="attn1.*", inputs=True),
        Layers(pattern="ff.*", inputs=True),
    ]
    before = linears(denoiser)
    made = prepare(denoiser, layers, small.base("nearest"), "W4A6")
    assert sorted(made) == sorted(before) == sorted(linears(denoiser))
    # Four of the attention, two of the feed-forward part, and two modulations.
    assert len(made) == 2 * 8 and all(name.startswith("net.transformer_blocks.") for name in made)
    for name, layer in made.items():
        assert layer.weights.grid.bits == 4
        assert (layer.inputs is None) == ("norm" in name)
        assert layer.inputs is None or layer.inputs.grid.bits == 6
    assert mixed.average(denoiser, among=linears(denoiser)).weights == 4


def test_full_precision_inputs_have_no_quantizer() -> None:
    layers = [Layers(pattern="*", inputs=True)]
    made = prepare(small.denoiser(1), layers, small.base("nearest"), "W4A16")
    assert all(layer.inputs is None for layer in made.values())


@pytest.mark.parametrize(
    ("pattern", "base", "told"),
    [("atn1.*", "nearest", "no linear layer matches"), ("ff.*", "groups", "cannot be cut")],
)
def test_a_plan_that_does_not_suit_is_refused(pattern: str, base: str, told: str) -> None:
    own = small.base(base)
    if base == "groups":
        own = own.model_copy(update={"group": 7})
    with pytest.raises(UserError, match=told):
        prepare(small.denoiser(1), [Layers(pattern=pattern, inputs=True)], own, "W4A6")
