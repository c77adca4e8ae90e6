"""What several layers make of one tensor, made once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class _Kept:
    """What was made, of what, how, and who has not asked for it yet."""

    found: Tensor
    source: weakref.ref[Tensor]
    state: Hashable
    waiting: set[int]


class Once:
    """Remembers what was made of a tensor until every member of a group has asked for it.

    It has to be the same tensor object, unchanged, in the same mode of gradients, and made by the
    same means; a member that asks again has it made anew. Of tensors of inference mode nothing is
    remembered, nor by copies.
    """

    def __init__(self, members: int) -> None:
        self.members = members
        self._kept: _Kept | None = None

    def __call__(
        self, x: Tensor, member: int, means: Hashable, make: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """make(x), now or as another member had it made.

        Args:
            member: who asks, 0 … members - 1.
            means: of two members whose `means` differ, each makes its own.
        """
        if x.is_inference():  # It has no version: a change in place could not be seen.
            return make(x)
        state = (x._version, torch.is_grad_enabled(), means)
        kept = self._kept
        if kept is None or kept.source() is not x or kept.state != state:
            kept = None
        if kept is None or member not in kept.waiting:
            kept = _Kept(make(x), weakref.ref(x), state, set(range(self.members)))
        kept.waiting.discard(member)
        self._kept = kept if kept.waiting else None
        return kept.found

    def __getstate__(self) -> dict[str, Any]:
        return {"members": self.members, "_kept": None}
