"""What a group of layers shares is made once, and never taken for something else."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from stages.quantize.once import Once


class Made:
    """Counts how often something is made."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.times += 1
        return 2 * x


def test_it_is_made_once_for_all_members_and_then_forgotten() -> None:
    once, make, x = Once(3), Made(), torch.ones(2)
    first, *others = (once(x, member, "same", make) for member in range(3))
    assert make.times == 1 and all(other is first for other in others)
    again = once(x, 0, "same", make)
    assert make.times == 2 and again is not first


def test_a_member_that_asks_twice_has_it_made_anew() -> None:
    once, make, x = Once(3), Made(), torch.ones(2)
    for _ in range(2):
        once(x, 0, "same", make)
        once(x, 1, "same", make)
    assert make.times == 2


def test_another_tensor_is_not_taken_for_it() -> None:
    once, make, x = Once(2), Made(), torch.ones(2)
    once(x, 0, "same", make)
    other = once(torch.full((2,), 5.0), 1, "same", make)
    assert make.times == 2 and other.tolist() == [10, 10]


def test_nor_is_one_that_was_changed_in_place() -> None:
    once, make, x = Once(2), Made(), torch.ones(2)
    once(x, 0, "same", make)
    x += 1
    assert once(x, 1, "same", make).tolist() == [4, 4]


def test_other_means_or_another_mode_of_gradients_make_it_anew() -> None:
    once, make, x = Once(3), Made(), torch.ones(2, requires_grad=True)
    assert once(x, 0, "one", make).requires_grad
    once(x, 1, "other", make)
    with torch.no_grad():
        assert not once(x, 2, "other", make).requires_grad
    assert make.times == 3


def test_inference_tensors_have_no_version_and_are_not_remembered() -> None:
    once, make = Once(2), Made()
    with torch.inference_mode():
        x = torch.ones(2)
        assert once(x, 0, "same", make).tolist() == [2, 2]
        x += 1
        assert once(x, 1, "same", make).tolist() == [4, 4]


def test_in_inference_mode_other_tensors_are_remembered_and_their_changes_seen() -> None:
    once, make, x = Once(3), Made(), torch.ones(2)
    with torch.inference_mode():
        once(x, 0, "same", make)
        once(x, 1, "same", make)
        assert make.times == 1
        x += 1
        assert once(x, 2, "same", make).tolist() == [4, 4]


def test_a_copy_remembers_nothing_and_copies_stay_together() -> None:
    """A graph that waits for the next member cannot be copied, and must not be."""
    once, make, x = Once(2), Made(), torch.ones(2, requires_grad=True)
    once(x, 0, "same", make)
    one, other = deepcopy((once, once))
    assert one is other and one is not once
    one(x, 1, "same", make)
    assert make.times == 2
