"""The base quantizer's transforms: the notes' traps 10 and 11, and that each part acts."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipelines.s2q_vdit.base import Base, attach, empty
from stages.quantize.layers import QuantLinear
from tests.pipelines.foundations.video.small import drawn
from tests.pipelines.s2q_vdit import small

SIZE = 12
X = drawn(2, 30, SIZE) * torch.logspace(-1, 1, SIZE)


def layer(own: Base, seed: int = 0, name: str = "a") -> QuantLinear:
    """A layer with the transform of a base; its inputs are X."""
    linear = nn.Linear(SIZE, 8)
    linear.weight.data = drawn(8, SIZE, seed=5)
    made = QuantLinear(linear, own.weights(), own.inputs())

    def salience() -> dict[str, Tensor]:
        return {name: made.prepared(X).abs().amax(1)}

    attach({name: made}, [[name]], own, salience, seed)
    return made


def product(made: QuantLinear) -> Tensor:
    return made.prepared(X) @ made.target().mT


TRANSFORMED = ["full", "rotated", "smooth", "balanced", "static"]


@pytest.mark.parametrize("name", TRANSFORMED)
def test_a_transform_leaves_the_product_as_it_is(name: str) -> None:
    made = layer(small.base(name))
    wanted = X @ made.weight.mT
    assert not torch.allclose(made.prepared(X), X, atol=0.1)
    assert torch.allclose(product(made), wanted, atol=1e-4)


def test_and_does_so_wherever_learning_leads() -> None:
    """A learned matrix on both sides would be exact only while it is orthogonal."""
    made = layer(small.base("full"))
    assert made.transform is not None
    for place, parameter in enumerate(made.transform.parameters()):
        parameter.data += 0.2 * drawn(*parameter.shape, seed=place)
    matrix = made.prepared(torch.eye(SIZE))
    assert not torch.allclose(matrix @ matrix.mT, torch.eye(SIZE), atol=0.2)
    assert torch.allclose(product(made), X @ made.weight.mT, atol=1e-3)
    twice = made.prepared(X) @ made.prepared(made.weight).mT
    assert not torch.allclose(twice, X @ made.weight.mT, atol=1e-1)


@pytest.mark.parametrize("name", ["full", "static"])
def test_the_rotation_comes_first_and_the_scale_second_on_both_sides(name: str) -> None:
    made = layer(small.base(name))
    rotation, scale = made.transform.parts  # type: ignore[union-attr,misc]
    assert torch.allclose(made.prepared(X), scale.inputs(rotation.inputs(X)), atol=1e-5)
    other = rotation.inputs(scale.inputs(X))
    assert not torch.allclose(made.prepared(X), other, atol=1e-2)
    # The scale suits the rotated inputs: SmoothQuant with alpha 1/2 makes both maxima alike.
    tops = made.prepared(X).abs().amax((0, 1)), made.target().abs().amax(0)
    assert torch.allclose(*tops, rtol=1e-3)


def test_rotations_start_orthogonal_random_and_reproducible() -> None:
    found = []
    for seed, name in ((0, "a"), (0, "a"), (1, "a"), (0, "b")):
        for own in ("full", "rotated"):
            made = layer(small.base(own), seed, name)
            matrix = made.transform.parts[0].inputs(torch.eye(SIZE)).detach()  # type: ignore[union-attr,index,operator]
            assert torch.allclose(matrix @ matrix.mT, torch.eye(SIZE), atol=1e-5)
            assert float(matrix.abs().max()) < 0.5, "an outlier is spread over all channels"
            found.append(matrix)
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])
    assert len({tuple(m.flatten().tolist()) for m in found}) == 6


def test_balancing_weighs_the_steps_whose_inputs_are_least_like_the_weight() -> None:
    own = small.base("balanced")
    linear = nn.Linear(SIZE, 8)
    linear.weight.data = drawn(8, SIZE, seed=5) * torch.linspace(1, 3, SIZE)
    made = QuantLinear(linear, own.weights(), own.inputs())
    like, unlike = torch.linspace(1, 3, SIZE), torch.linspace(3, 1, SIZE)

    def scale(steps: list[Tensor]) -> Tensor:
        attach({"a": made}, [["a"]], own, lambda: {"a": torch.stack(steps)}, 0)
        return made.transform.parts[0].log_scale.detach().exp()  # type: ignore[union-attr,index,return-value]

    both, first, second = scale([like, unlike]), scale([like]), scale([unlike])
    assert float((both - second).abs().mean()) < float((both - first).abs().mean())


def test_a_group_has_a_step_of_its_own() -> None:
    own = Base.model_validate(small.raw_base("groups") | {"group": 4})
    made = layer(own)
    assert made.codes().scale.shape == (8, 3) and made.transform is None
    assert made.inputs is not None and made.inputs.codes(X).scale.shape == (2, 30, 3)


def test_grids_are_symmetric_per_channel_and_per_token() -> None:
    made = layer(small.base("full"))
    assert made.inputs is not None
    assert made.codes().scale.shape == (8, 1) and bool((made.codes().zero == 0).all())
    assert made.inputs.codes(X).scale.shape == (2, 30, 1)
    alone = made.inputs(X[:1, 3:4])
    assert torch.equal(made.inputs(X)[:1, 3:4], alone), "a token's step is its own"


@pytest.mark.parametrize("name", TRANSFORMED)
def test_an_empty_transform_takes_what_was_kept(name: str) -> None:
    own = small.base(name)
    made, blank = layer(own), empty(own, SIZE)
    assert made.transform is not None
    blank.load_state_dict(made.transform.state_dict())
    assert torch.equal(blank.inputs(X), made.prepared(X))  # type: ignore[operator]


def test_what_a_base_asks_for() -> None:
    learns = {name: small.base(name).learns for name in small.BASES}
    sees = {name: small.base(name).sees for name in small.BASES}
    assert [name for name, it in learns.items() if it] == ["full", "balanced"]
    assert [name for name, it in sees.items() if not it] == ["nearest", "rotated"]


def test_alpha_belongs_to_smoothquants_scale() -> None:
    for change in ({"scale": "smooth"}, {"alpha": 0.5}, {"scale": "balanced", "alpha": 0.5}):
        with pytest.raises(ValidationError, match="alpha belongs to"):
            Base.model_validate(small.raw_base("nearest") | change)
