"""Column sums of attention: the notes' traps 6 and 7."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.s2q_vdit.attention import column_sums, watching
from stages.core.errors import UserError
from tests.pipelines.foundations.video.small import drawn

B, H, N, D = 2, 3, 20, 4


def whole(query: Tensor, key: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """The matrix itself."""
    return (query @ key.mT / math.sqrt(D) + bias).softmax(-1)


@pytest.mark.parametrize("entries", [1, B * H * N * 7, 2**24])
def test_sums_over_heads_and_queries_whatever_the_chunk(entries: int) -> None:
    query, key = drawn(B, H, N, D), drawn(B, H, N, D, seed=1)
    found = column_sums(query, key, entries=entries)
    assert torch.allclose(found, whole(query, key).sum((1, 2)), atol=1e-5)
    assert torch.allclose(found.sum(1), torch.full((B,), float(H * N)))


def test_they_are_not_row_sums_which_say_nothing() -> None:
    query, key = drawn(B, H, N, D), 3 * drawn(B, H, N, D, seed=1)
    assert torch.allclose(whole(query, key).sum((1, 3)), torch.full((B, N), float(H)))
    assert float(column_sums(query, key).std()) > 0.5


def test_the_matrix_is_never_whole() -> None:
    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.most = max(self.most, out.numel())
            return out

    query, key = drawn(1, 2, 500, D), drawn(1, 2, 500, D, seed=1)
    with Largest() as largest:
        column_sums(query, key, entries=10_000)
    assert largest.most <= 10_000


def test_masks_count() -> None:
    query, key = drawn(B, H, N, D), drawn(B, H, N, D, seed=1)
    seen = torch.arange(N) < 15
    bias = torch.zeros(N).masked_fill(~seen, -math.inf)
    for mask in (seen[None, None, None], bias[None, None, None], seen.expand(1, 1, N, N)):
        found = column_sums(query, key, mask, entries=400)
        assert torch.allclose(found, whole(query, key, bias).sum((1, 2)), atol=1e-5)
    assert bool((found[:, 15:] == 0).all())


def test_another_scale_counts() -> None:
    query, key = drawn(B, H, N, D), drawn(B, H, N, D, seed=1)
    assert torch.allclose(column_sums(query, key, scale=1.0), whole(2 * query, key).sum((1, 2)))


class Attends(nn.Module):
    """Doubles its queries, as a norm would change them, and attends."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(2 * x, x, x)


class Other(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x @ x.mT).softmax(-1) @ x


def test_what_reaches_the_kernel_is_seen_of_the_named_modules_alone() -> None:
    first, second, x = Attends(), Attends(), drawn(B, H, N, D)
    with watching({"first": first}) as sums:
        got = first(x)
        second(x)
        first(x + 1)
    assert torch.equal(got, first(x)), "watching changes nothing"
    assert len(sums["first"]) == 2
    assert torch.allclose(sums["first"][0], whole(2 * x, x).sum((1, 2)), atol=1e-5)
    first(x)
    assert len(sums["first"]) == 2, "and ends with the context"


def test_attention_that_is_made_otherwise_is_no_silent_zero() -> None:
    net = Other()
    seen = "'net' ran 1 times, and 0 of its attentions were seen"
    with pytest.raises(UserError, match=seen), watching({"net": net}):
        net(drawn(B, H, N, D))


def test_causal_attention_is_refused() -> None:
    class Causal(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(x, x, x, is_causal=True)

    net = Causal()
    with pytest.raises(UserError, match="causal"), watching({"net": net}):
        net(drawn(B, H, N, D))
