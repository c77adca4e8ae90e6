"""Surgery: nothing lost, nothing made up. Traps 4 and 5 of the notes on SepPrune."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stages.prune.masks import masked
from stages.prune.surgery import as_masks, cut

KEEP = {"wide.0": torch.tensor([0, 2, 5]), "wide.1": torch.tensor([1, 4])}


def test_trap_5_with_all_channels_kept_the_state_is_equal_bit_for_bit(
    toy: Callable[..., nn.Module],
) -> None:
    state = toy().state_dict()
    keep = {group.name: torch.arange(group.size) for group in toy().groups()}
    whole = cut(state, toy().groups(), keep)
    assert list(whole) == list(state)
    assert all(torch.equal(whole[name], state[name]) for name in state)
    assert all(whole[name].data_ptr() != state[name].data_ptr() for name in state)


def test_every_tensor_of_a_channel_is_cut(toy: Callable[..., nn.Module]) -> None:
    state = toy().state_dict()
    before = {name: values.clone() for name, values in state.items()}
    small = cut(state, toy().groups(), KEEP)
    for name in ("wide.0.weight", "wide.0.bias", "norm.0.gamma", "norm.0.beta", "act.0.weight",
                 "filter.weight", "filter.bias", "after.gamma", "after.beta"):  # fmt: skip
        assert torch.equal(small[name], state[name][[0, 2, 5]]), name
    assert torch.equal(small["narrow.weight"], state["narrow.weight"][:, [0, 2, 5, 7, 10]])
    assert torch.equal(small["narrow.bias"], state["narrow.bias"])
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_trap_4_the_cut_net_computes_what_the_masked_net_does(
    toy: Callable[..., nn.Module], example: Tensor
) -> None:
    net, small = toy(), toy(widths=(3, 2))
    small.load_state_dict(cut(net.state_dict(), net.groups(), KEEP), strict=True)
    with torch.no_grad():
        with masked(net, net.groups(), as_masks(net.groups(), KEEP)):
            reference = net(example)
        torch.testing.assert_close(small(example), reference, rtol=1e-5, atol=1e-5)
        # A mask behind the norm, as published, is not what the cut net computes.
        hooks = [
            net.get_submodule(norm).register_forward_hook(lambda m, i, o, k=mask: o * k[:, None])
            for group in net.groups()
            for norm in group.norms
            for mask in (as_masks(net.groups(), KEEP)[group.name],)
        ]
        assert float((net(example) - reference).abs().max()) > 0.01
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"wide.0": KEEP["wide.0"]}, "wide.1 keeps no channel"),
        ({**KEEP, "wide.1": torch.tensor([], dtype=torch.long)}, "wide.1 keeps no channel"),
        ({**KEEP, "wide.1": torch.tensor([2, 5])}, "wide.1: indices must increase within 0..4"),
        ({**KEEP, "wide.1": torch.tensor([-1, 2])}, "wide.1: indices must increase"),
        ({**KEEP, "wide.1": torch.tensor([2, 2])}, "wide.1: indices must increase"),
        ({**KEEP, "wide.1": torch.tensor([3, 1])}, "wide.1: indices must increase"),
    ],
)
def test_it_refuses_indices_that_are_none(
    toy: Callable[..., nn.Module], broken: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cut(toy().state_dict(), toy().groups(), broken)
