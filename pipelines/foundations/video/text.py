"""Text as a video transformer sees it, and the frozen encoder of the networks trained here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.core.seeding import seed_of

PAD = 0
"""The id that fills a prompt up to the common length."""


@dataclass(frozen=True)
class Text:
    """What a batch of prompts became.

    Attributes:
        tokens: (B, L, E).
        mask: (B, L), True where a token may be attended to; None where all may.
        pooled: (B, P), one vector a prompt, where the network takes such a thing.
    """

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: slice | Tensor) -> Text:
        return self._map(lambda part: part[index])

    def to(self, place: torch.device | torch.dtype) -> Text:
        """Moved to a device, or its floating parts cast to a type."""
        if isinstance(place, torch.device):
            return self._map(lambda part: part.to(place))
        return self._map(lambda part: part.to(place) if part.is_floating_point() else part)

    @staticmethod
    def cat(parts: list[Text]) -> Text:
        """Several batches as one; all must have the same optional parts and lengths."""

        def joined(name: str) -> Tensor | None:
            found = [getattr(part, name) for part in parts]
            return None if found[0] is None else torch.cat(found)

        return Text(torch.cat([part.tokens for part in parts]), joined("mask"), joined("pooled"))

    def _map(self, change: object) -> Text:
        def applied(part: Tensor | None) -> Tensor | None:
            return None if part is None else change(part)  # type: ignore[operator]

        return Text(change(self.tokens), applied(self.mask), applied(self.pooled))  # type: ignore[operator]


class Words:
    """A frozen table of word vectors, with the places of the words added.

    Text enters the networks as tokens of their own, as in the published models, but nothing of a
    language model is needed for a vocabulary of some twenty words: random vectors of this width
    are nearly orthogonal, and what they mean is learnt by the network's own text projection. A
    start token stands before each prompt, so that the empty prompt (all `PAD`) has a token too.

    Attributes:
        table: (words + 1, E), unit variance; the last row is the start token's.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table

    @staticmethod
    def fresh(words: int, width: int, seed: int) -> Words:
        """A table for `words` ids, drawn from the seed."""
        generator = torch.Generator().manual_seed(seed_of("words", seed))
        return Words(torch.randn(words + 1, width, generator=generator))

    def encode(self, prompts: Tensor) -> Text:
        """
        Args:
            prompts: (B, L) int64, ids of the vocabulary, filled up with `PAD`.

        Returns:
            tokens (B, 1 + L, E), zero where there is no word, and the mask of where there is one.
        """
        table = self.table.to(prompts.device)
        start = prompts.new_full((len(prompts), 1), len(table) - 1)
        ids = torch.cat([start, prompts], 1)
        mask = ids != PAD
        tokens = table[ids] + places(ids.shape[1], table.shape[1]).to(table)
        return Text(tokens * mask[:, :, None], mask)

    def empty(self, count: int, length: int) -> Text:
        """The text of `count` empty prompts of `length` ids."""
        return self.encode(torch.full((count, length), PAD))


def places(length: int, width: int) -> Tensor:
    """(length, width): sines and cosines of each place [Vaswani et al. 2017, section 3.5]."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]
