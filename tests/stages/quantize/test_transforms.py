"""Every transform leaves the product as it is, and does what it is for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stages.quantize.grids import Grid
from stages.quantize.hadamard import hadamard, signs
from stages.quantize.layers import QuantLinear, WeightSpec
from stages.quantize.transforms import (
    Chain,
    Diagonal,
    Kronecker,
    Rotation,
    times_kronecker,
)

SIZE = 24


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scale() -> Tensor:
    return noise(SIZE, seed=9).exp()


def bent() -> Kronecker:
    """A learned transform that has left the orthogonal ones."""
    made = Kronecker.hadamard(SIZE)
    with torch.no_grad():
        made.left += 0.2 * noise(*made.left.shape, seed=3)
        made.right += 0.2 * noise(*made.right.shape, seed=4)
    return made


TRANSFORMS = {
    "diagonal": lambda: Diagonal(scale(), learned=False),
    "rotation": lambda: Rotation.hadamard(SIZE, seeded()),
    "kronecker": bent,
    "identity": lambda: Kronecker.identity(SIZE),
    "empty": lambda: Chain([]),
    "chain": lambda: Chain(
        [Rotation.hadamard(SIZE, seeded()), Diagonal(scale(), learned=True), bent()]
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_trap_1f_10_the_product_stays(name: str) -> None:
    transform = TRANSFORMS[name]().double()
    x, w = noise(2, 7, SIZE).double(), noise(5, SIZE, seed=1).double()
    product = transform.inputs(x) @ transform.weights(w).T
    torch.testing.assert_close(product, x @ w.T, rtol=1e-5, atol=1e-5)
    assert transform.inputs(x).shape == x.shape and transform.weights(w).shape == w.shape


def test_trap_1f_10_the_same_matrix_on_both_sides_is_only_exact_for_an_orthogonal_one() -> None:
    x, w = noise(7, SIZE), noise(5, SIZE, seed=1)
    learned = bent()
    wrong = learned.inputs(x) @ learned.inputs(w).T
    assert float((wrong - x @ w.T).detach().abs().max()) > 0.5


def test_trap_1f_11_a_chain_has_an_order() -> None:
    turn, stretch = Rotation.hadamard(SIZE, seeded()), Diagonal(scale(), learned=False)
    x = noise(3, SIZE)
    one, other = Chain([turn, stretch]), Chain([stretch, turn])
    torch.testing.assert_close(one.inputs(x), turn.inputs(x) / scale())
    torch.testing.assert_close(other.inputs(x), turn.inputs(x / scale()))
    assert float((one.inputs(x) - other.inputs(x)).abs().max()) > 0.1


def test_an_empty_chain_gives_many_tokens_back_too() -> None:
    x = noise(SIZE + 1, SIZE)
    assert torch.equal(Chain([]).inputs(x), x) and torch.equal(Chain([]).weights(x), x)


@pytest.mark.parametrize("size", [24, 192])
def test_a_chain_gives_many_tokens_what_it_gives_few(size: int) -> None:
    """Many narrow ones take one product by the multiplied-out chain, others part after part."""
    parts = [Diagonal(noise(size).exp(), learned=True), Kronecker.hadamard(size)]
    x = noise(size + 1, size)
    by_parts = parts[1].inputs(parts[0].inputs(x))
    torch.testing.assert_close(Chain(parts).inputs(x), by_parts, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(Chain(parts).inputs(x[:3]), by_parts[:3], rtol=1e-4, atol=1e-4)
    by_parts = parts[1].weights(parts[0].weights(x))
    torch.testing.assert_close(Chain(parts).weights(x), by_parts, rtol=1e-4, atol=1e-4)
    turned = [Kronecker.hadamard(size), Rotation.hadamard(size, seeded()), parts[0]]
    for own in (turned, turned[1:]):
        kept = Chain(own).inputs(x) @ Chain(own).weights(x).mT
        torch.testing.assert_close(kept, x @ x.mT, rtol=1e-3, atol=1e-2)


def test_the_rotation_is_signs_then_hadamard() -> None:
    made = Rotation.hadamard(SIZE, seeded(5))
    wanted = signs(SIZE, seeded(5))[:, None] * hadamard(SIZE)
    torch.testing.assert_close(made.inputs(torch.eye(SIZE)), wanted.float(), atol=1e-6, rtol=0)


def test_a_rotation_flattens_an_outlier_and_keeps_lengths() -> None:
    x = noise(50, SIZE)
    x[:, 3] *= 100
    turned = Rotation.hadamard(SIZE, seeded()).inputs(x)
    torch.testing.assert_close(turned.norm(dim=1), x.norm(dim=1))
    assert float(turned.abs().max()) < 0.35 * float(x.abs().max())


def test_what_is_not_orthogonal_is_no_rotation() -> None:
    with pytest.raises(ValueError, match="orthogonal"):
        Rotation(torch.eye(2), torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.ones(4))


@pytest.mark.parametrize("sizes", [(1, 6), (6, 1), (4, 6), (12, 16), (1, 131), (131, 1)])
def test_the_product_by_factors_is_the_product_by_the_whole(sizes: tuple[int, int]) -> None:
    left, right = noise(sizes[0], sizes[0], seed=1), noise(sizes[1], sizes[1], seed=2)
    x = noise(2, 3, sizes[0] * sizes[1])
    wanted = x.double() @ torch.kron(left, right).double()
    for mode in (torch.enable_grad(), torch.no_grad()):
        with mode:
            found = times_kronecker(x, left, right).double()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("sizes", [(4, 6), (12, 16)])
def test_gradients_of_the_product_by_factors_are_those_of_the_whole(sizes: tuple[int, int]) -> None:
    size = sizes[0] * sizes[1]
    given = [noise(n, n, seed=k).double() for k, n in enumerate(sizes, 1)]
    given = [noise(2, 3, size).double(), *given]

    def by(product: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        own = [part.clone().requires_grad_() for part in given]
        return torch.autograd.grad(product(*own).pow(3).sum(), own)

    found, wanted = by(times_kronecker), by(lambda x, left, right: x @ torch.kron(left, right))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_learned_transform_starts_where_a_hadamard_matrix_is() -> None:
    x = noise(3, SIZE)
    torch.testing.assert_close(Kronecker.hadamard(SIZE).inputs(x), x @ hadamard(SIZE).float())
    torch.testing.assert_close(Kronecker.identity(SIZE).inputs(x), x)


def test_gradients_run_through_the_inverse() -> None:
    made, x, w = bent().double(), noise(4, SIZE).double(), noise(5, SIZE, seed=1).double()
    parameters = list(made.parameters())

    def value() -> Tensor:
        return made.inputs(x).pow(3).sum() + made.weights(w).pow(2).sum()

    gradients = torch.autograd.grad(value(), parameters)
    ways = [noise(*p.shape, seed=k + 20).double() for k, p in enumerate(parameters)]
    along = sum(float((g * v).sum()) for g, v in zip(gradients, ways, strict=True))
    ends = []
    for shift in (1e-5, -2e-5):
        with torch.no_grad():
            for p, v in zip(parameters, ways, strict=True):
                p += shift * v
            ends.append(float(value()))
    assert along == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_what_is_learned_and_what_is_not() -> None:
    assert not [p for p in Rotation.hadamard(SIZE, seeded()).parameters()]
    assert Diagonal(scale(), learned=True).log_scale.requires_grad
    assert not Diagonal(scale(), learned=False).log_scale.requires_grad
    with pytest.raises(ValueError, match="above zero"):
        Diagonal(torch.tensor([1.0, 0.0]), learned=True)


def test_a_scale_is_invariant_to_what_adam_does_to_its_unit() -> None:
    """Kept as a logarithm, a step makes the same ratio of a large scale as of a small one."""
    made = Diagonal(torch.tensor([1e-3, 1e3]), learned=True)
    adam = torch.optim.Adam(made.parameters(), lr=0.1)
    before = made.log_scale.detach().exp()
    made.log_scale.sum().backward()
    adam.step()
    ratio = made.log_scale.detach().exp() / before
    torch.testing.assert_close(ratio, torch.full((2,), 0.9048), rtol=1e-3, atol=0)


def test_it_folds_into_the_codes_of_a_layer() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(SIZE, 5), noise(7, SIZE)
    grid = Grid(bits=8, symmetric=True, granularity="channel", group=None, dynamic=True)
    weights = WeightSpec(grid=grid, clip="max", norm=None, rounding="nearest")
    layer = QuantLinear(linear, weights, None, transform=TRANSFORMS["chain"]())
    before = layer(x)
    layer.adopt(layer.codes())  # from here on there are codes and `inputs`, but no weight
    torch.testing.assert_close(layer(x), before)
    gap = (before - linear(x)).detach().abs().max()
    assert float(gap) < 0.2 * float(linear(x).detach().abs().max())


def test_a_transform_survives_its_state_dict() -> None:
    made = TRANSFORMS["chain"]()
    ones = Diagonal(torch.ones(SIZE), learned=True)
    fresh = Chain([Rotation.hadamard(SIZE, seeded(7)), ones, Kronecker.hadamard(SIZE)])
    fresh.load_state_dict(made.state_dict())
    x = noise(3, SIZE)
    assert torch.equal(fresh.inputs(x), made.inputs(x))


def test_a_rotation_that_is_not_learned_takes_a_bit_an_input() -> None:
    one, other = (Rotation.hadamard(24, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    saved = one.state_dict()
    assert sum(8 * t.numel() * t.element_size() for t in saved.values()) == 24
    x = torch.randn(5, 24)
    assert not torch.equal(one.inputs(x), other.inputs(x))
    other.load_state_dict(saved)
    assert torch.equal(one.inputs(x), other.inputs(x))
