"""The frozen word table, and batches of text."""

import math

import torch

from pipelines.foundations.video.text import PAD, Text, Words, places

PROMPTS = torch.tensor([[3, 4, 0], [5, 0, 0]])


def test_padding_is_zero_and_masked_and_a_start_token_stands_first() -> None:
    words = Words.fresh(6, 8, seed=0)
    text = words.encode(PROMPTS)
    assert text.tokens.shape == (2, 4, 8) and text.mask is not None
    assert text.mask.tolist() == [[True, True, True, False], [True, True, False, False]]
    assert not text.tokens[~text.mask].any()
    assert torch.equal(text.tokens[0, 0], words.table[6] + places(4, 8)[0])
    assert torch.equal(text.tokens[1, 1], words.table[5] + places(4, 8)[1])


def test_an_empty_prompt_is_the_start_token_alone() -> None:
    text = Words.fresh(6, 8, seed=0).encode(torch.full((1, 3), PAD))
    assert text.mask is not None and text.mask.tolist() == [[True, False, False, False]]


def test_the_table_depends_on_the_seed_alone() -> None:
    assert torch.equal(Words.fresh(6, 8, 0).table, Words.fresh(6, 8, 0).table)
    assert not torch.equal(Words.fresh(6, 8, 0).table, Words.fresh(6, 8, 1).table)


def test_places_are_sines_and_cosines() -> None:
    found = places(5, 4)
    assert torch.allclose(found[2], torch.tensor(
        [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
    ))  # fmt: skip


def test_text_is_cut_joined_and_cast_with_all_its_parts() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    text = Text(torch.randn(2, 2, 3), mask, torch.randn(2, 5))
    both = Text.cat([text[:1], text[1:]])
    assert len(both) == 2 and torch.equal(both.tokens, text.tokens)
    assert torch.equal(both.mask, mask) and torch.equal(both.pooled, text.pooled)  # type: ignore[arg-type]
    half = text.to(torch.float16)
    assert half.tokens.dtype == torch.float16 and half.mask.dtype == torch.bool  # type: ignore[union-attr]
    assert Text.cat([Text(text.tokens), Text(text.tokens)]).mask is None
