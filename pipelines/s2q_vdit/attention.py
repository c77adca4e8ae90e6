"""How much attention each token gets, of a network that never says.

S_j is the sum over heads and queries of the attention to token j: the column sums of the matrix
after the softmax (S²Q-VDiT, arXiv 2508.04016, equation 11). Row sums would be 1 for every token.
Networks compute attention fused and keep no matrix, and n × n numbers a head are far too many for
a video of n = 17,000 tokens; so the queries and keys that reach the fused kernel, normalised and
rotated as they are by then, are caught, and the softmax is made again for a few queries at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from stages.core.errors import UserError

ENTRIES = 2**24
"""Attention scores held at a time; decides speed and memory alone."""


@torch.no_grad()
def column_sums(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    entries: int = ENTRIES,
) -> Tensor:
    """Σ over heads and queries of softmax(scale · q·kᵀ): (B, keys), adding up to heads · queries.

    Args:
        query: (B, heads, queries, d).
        key: (B, heads, keys, d).
        mask: as of torch's attention, broadcast to (B, heads, queries, keys): False, or what is
            added to the scores.
        scale: 1 / √d by default.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    turned = key.float().mT
    total = turned.new_zeros(len(key), key.shape[-2])
    rows = max(1, entries // (len(key) * key.shape[1] * key.shape[-2]))
    for start in range(0, query.shape[-2], rows):
        part = slice(start, start + rows)
        scores = (query[..., part, :].float() * scale) @ turned
        if mask is not None:
            scores = _masked(scores, mask[..., part, :] if mask.shape[-2] > 1 else mask)
        total += scores.softmax(-1).sum((1, 2))
    return total


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -math.inf)
    return scores + mask


@contextmanager
def watching(
    modules: Mapping[str, nn.Module], entries: int = ENTRIES
) -> Iterator[dict[str, list[Tensor]]]:
    """Within the context, keep the column sums of each module's attention, a tensor a call.

    Args:
        modules: attentions that call torch's `scaled_dot_product_attention` once each.

    Yields:
        name -> (B, tokens) of each call, on the CPU.

    Raises:
        UserError: a module attended in some other way.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in modules}
    running: list[str] = []
    calls = dict.fromkeys(modules, 0)

    def see(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> None:
        found[running[-1]].append(column_sums(query, key, mask, scale, entries).cpu())

    handles = []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(_begins(name, running, calls)))
        handles.append(module.register_forward_hook(_ends(running)))
    try:
        with _Catch(see, running):
            yield found
    finally:
        for handle in handles:
            handle.remove()
    for name, sums in found.items():
        if len(sums) != calls[name]:
            raise UserError(
                f"'{name}' ran {calls[name]} times, and {len(sums)} of its attentions were seen; "
                "use diffusers' default attention backend"
            )


def _begins(name: str, running: list[str], calls: dict[str, int]) -> Callable[..., None]:
    def begin(*_: Any) -> None:
        running.append(name)
        calls[name] += 1

    return begin


def _ends(running: list[str]) -> Callable[..., None]:
    def end(*_: Any) -> None:
        running.pop()

    return end


class _Catch(TorchFunctionMode):
    """Shows queries, keys, mask and scale of every attention made while `running` is not empty."""

    def __init__(self, see: Callable[..., None], running: list[str]) -> None:
        super().__init__()
        self.see, self.running = see, running

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention and self.running:
            self.see(*_understood(*args, **kwargs))
        return function(*args, **kwargs)


def _understood(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, float | None]:
    """The arguments of torch's attention that decide its matrix."""
    if is_causal or enable_gqa or dropout_p:
        raise UserError("causal, grouped or dropped-out attention has no column sums here")
    return query, key, attn_mask, scale
