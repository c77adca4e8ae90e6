"""The mask search: frozen weights, dropout off, shared masks, resume. Traps 6 and 16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stages.core.job import Job
from stages.prune.masks import masked
from stages.prune.search import MaskSearch, SearchSpec, learn_masks
from stages.teach import loop

Forward = Callable[[Tensor], Tensor]

SPEC = SearchSpec(
    steps=12, batch=2, lr=0.1, tau=1.0, threshold=0.7, clip=5.0, init_low=0.0, init_high=1.0
)


@pytest.fixture
def loss(example: Tensor) -> Callable[[Forward, int], Tensor]:
    return lambda forward, step: forward(example + step).square().mean()


def test_only_alpha_is_learned_and_dropout_stays_off(
    toy: Callable[..., nn.Module], example: Tensor, job: Job
) -> None:
    net = toy()
    before = {name: values.clone() for name, values in net.state_dict().items()}
    modes = []

    def loss(forward: Forward, step: int) -> Tensor:
        output = forward(example)
        modes.append(net.training)
        assert torch.equal(output, forward(example))  # dropout of one half would show
        return output.square().mean()

    start = MaskSearch(toy(), net.groups(), SPEC, 3).alpha.detach()
    assert float(start.min()) >= 0 and float(start.max()) <= 1
    search = learn_masks(net.train(), net.groups(), SPEC, loss, job=job, name="s", seed=3)
    assert modes == [False] * SPEC.steps
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)
    moved = (search.alpha.detach() - start).abs()
    assert (moved > 0).all() and float(moved.max()) <= SPEC.lr * SPEC.steps * 1.01
    assert all(m.mask is None for m in net.modules() if hasattr(m, "mask"))


def test_a_search_cut_short_goes_on_to_the_same_masks(
    toy: Callable[..., nn.Module],
    loss: Callable[[Forward, int], Tensor],
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    kinds = {"search": None, "joint": 1e-3}
    for name, rate in kinds.items():
        whole = learn_masks(
            toy(), toy().groups(), SPEC, loss, job=job, name=name, seed=3, weights_lr=rate
        )
        (job.resume / name).rename(job.resume / f"{name}-whole")

        def cutting(forward: Forward, step: int) -> Tensor:
            if step == 7:
                raise InterruptedError
            return loss(forward, step)

        with pytest.raises(InterruptedError):
            learn_masks(
                toy(), toy().groups(), SPEC, cutting, job=job, name=name, seed=3, weights_lr=rate
            )
        again = learn_masks(
            toy(), toy().groups(), SPEC, loss, job=job, name=name, seed=3, weights_lr=rate
        )
        done = learn_masks(
            toy(), toy().groups(), SPEC, loss, job=job, name=name, seed=3, weights_lr=rate
        )
        for other in (again, done):
            for key, values in whole.state_dict().items():
                assert torch.equal(values, other.state_dict()[key]), (name, key)


def test_the_last_draw_is_kept_and_draws_depend_on_their_name_alone(
    toy: Callable[..., nn.Module], loss: Callable[[Forward, int], Tensor], job: Job
) -> None:
    search = learn_masks(toy(), toy().groups(), SPEC, loss, job=job, name="s", seed=3)
    assert set(search.last.tolist()) <= {0.0, 1.0}
    with torch.no_grad():
        first = search.masks("a")
        torch.manual_seed(99)
        assert all(torch.equal(first[name], part) for name, part in search.masks("a").items())
        assert not torch.equal(
            torch.cat([*first.values()]), torch.cat([*search.masks("b").values()])
        )
    sizes = {name: len(part) for name, part in search.by_group(search.last).items()}
    assert sizes == {"wide.0": 6, "wide.1": 5}


def test_trap_6_a_shared_mask_sums_its_gradient_over_all_uses(
    toy: Callable[..., nn.Module], example: Tensor
) -> None:
    net, uses = toy(uses=3), 3
    groups = net.groups()
    shared = {g.name: torch.ones(g.size).requires_grad_() for g in groups}
    with masked(net, groups, shared):
        net(example).square().mean().backward()
    own = [{g.name: torch.ones(g.size).requires_grad_() for g in groups} for _ in range(uses)]
    calls: dict[str, int] = {}

    def separate(name: str, norm: str) -> Callable[..., None]:
        def hook(module: nn.Module, _: object) -> None:
            module.mask = own[calls.setdefault(norm, 0)][name]
            calls[norm] += 1

        return hook

    for group in groups:
        for norm in group.norms:
            net.get_submodule(norm).register_forward_pre_hook(separate(group.name, norm))
    net(example).square().mean().backward()
    for group in groups:
        parts = [masks[group.name].grad for masks in own]
        assert all(float(part.abs().max()) > 0 for part in parts)
        torch.testing.assert_close(shared[group.name].grad, sum(parts))


def test_joint_learning_moves_alpha_and_weights_each_at_its_own_rate(
    toy: Callable[..., nn.Module], loss: Callable[[Forward, int], Tensor], job: Job
) -> None:
    one = SPEC.model_copy(update={"steps": 1})
    net = toy()
    before = {name: values.clone() for name, values in net.named_parameters()}
    start = MaskSearch(toy(), net.groups(), one, 3).importance().detach()
    search = learn_masks(net, net.groups(), one, loss, job=job, name="j", seed=3, weights_lr=1e-3)
    # Adam's first step is its learning rate, whatever the gradient.
    moved = (search.importance().detach() - start).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1), rtol=1e-3, atol=1e-5)
    step = (net.narrow.bias.detach() - before["narrow.bias"]).abs()
    torch.testing.assert_close(step, torch.full_like(step, 1e-3), rtol=1e-2, atol=1e-6)
    alone = learn_masks(toy(), net.groups(), one, loss, job=job, name="a", seed=3)
    torch.testing.assert_close(search.importance(), alone.importance(), rtol=1e-5, atol=1e-5)
