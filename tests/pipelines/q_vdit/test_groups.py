"""The search for group sizes."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.q_vdit.arms import Search
from pipelines.q_vdit.groups import Evolution, steps
from stages.core.errors import UserError
from stages.quantize.layers import quantized
from tests.pipelines.q_vdit import small

SEARCH: dict[str, Any] = {
    "group": 8, "sizes": [4, 8, 16], "population": 4, "generations": 3, "samples": 3,
}  # fmt: skip


def evolution(**changes: Any) -> Evolution:
    start = small.ground()
    search = Search.model_validate(SEARCH | changes)
    return Evolution(small.student(start), search, start.records(), 4, 0)


def test_the_best_of_all_that_were_tried_is_left_within_the_budget() -> None:
    search = evolution()
    best = search.run()
    assert search.tried[best] == min(search.tried.values())
    assert all(search.cost(genome) <= search.budget for genome in search.tried)
    for layer, size in zip(search.layers.values(), best, strict=True):
        assert layer.weights.grid.group == size and layer.in_features % size == 0
    used = sum(layer.codes().scale.numel() for layer in search.layers.values())
    assert used == search.cost(best) <= sum(steps(y, 8) for y in search.layers.values())


def test_generations_do_not_lose_what_was_found() -> None:
    short, long = evolution(generations=1), evolution(generations=6)
    assert long.tried[long.run()] <= short.tried[short.run()]
    assert len(long.tried) > len(short.tried)


def test_it_is_a_function_of_its_seed() -> None:
    assert evolution().run() == evolution().run()


def test_groups_are_nearer_than_rows() -> None:
    search = evolution()
    everywhere = tuple(8 for _ in search.layers)
    rows = tuple(max(sizes) for sizes in search.options)
    assert search.error(everywhere) < search.error(rows)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="cannot keep the budget"):
        evolution(sizes=[2, 4], group=8).run()
    with pytest.raises(UserError, match=r"none of the sizes \[3, 5\]"):
        evolution(sizes=[3, 5])


def test_the_model_that_is_searched_is_still_quantized() -> None:
    search = evolution()
    search.run()
    assert all(layer.inputs is not None for layer in quantized(search.whole).values())
