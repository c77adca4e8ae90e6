"""Captions as word tokens: a closed vocabulary, made of the training captions alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

PAD, UNKNOWN = "<pad>", "<unknown>"
"""Words 0 and 1 of every vocabulary; a prompt of nothing but padding is the empty prompt."""


def words(caption: str) -> list[str]:
    """The words of a caption, in lower case; punctuation only parts them."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", caption.lower())


def vocabulary(captions: Iterable[str]) -> list[str]:
    """Padding, the unknown word, and all words of the captions in order of the alphabet."""
    return [PAD, UNKNOWN, *sorted({word for caption in captions for word in words(caption)})]


def longest(captions: Iterable[str]) -> int:
    """Words of the longest caption, at least 1."""
    return max((len(words(caption)) for caption in captions), default=1) or 1


def encode(captions: Sequence[str], known: Sequence[str], length: int) -> NDArray[np.int64]:
    """Captions as rows of word numbers.

    Args:
        known: the vocabulary.
        length: words of a row; shorter captions are padded, of longer ones the end is cut off.

    Returns:
        (len(captions), length).
    """
    places = {word: place for place, word in enumerate(known)}
    unknown = places[UNKNOWN]
    rows = np.zeros((len(captions), length), dtype=np.int64)
    for row, caption in zip(rows, captions, strict=True):
        found = [places.get(word, unknown) for word in words(caption)][:length]
        row[: len(found)] = found
    return rows
