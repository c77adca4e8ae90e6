"""Layers that are given the same tensor, as queries, keys and values are.

They share what is done to it before their products: one transform, one clip, one quantization for
all (SmoothQuant, arXiv 2211.10438, and FlatQuant, arXiv 2410.09426, do so), computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from stages.quantize.layers import QuantLinear
from stages.quantize.once import Once


def siblings(layers: Mapping[str, QuantLinear], run: Callable[[], object]) -> list[list[str]]:
    """Groups of layers that are given the same tensor, in the order in which they are called.

    Layers whose inputs are quantized differently are not in one group.

    Args:
        run: calls every layer once; a sample is enough. Layers that it does not call, or more than
            once, stay by themselves.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        # What was seen is kept until the end, so that no two tensors have one identity.
        return lambda _, args: seen[name].append(args[0])

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    found: dict[object, list[str]] = {}
    for name, tensors in seen.items():
        inputs = layers[name].inputs
        spec = None if inputs is None else inputs.spec.model_dump_json()
        alone = len(tensors) != 1
        found.setdefault(name if alone else (id(tensors[0]), spec), []).append(name)
    return list(found.values())


def share(layers: Sequence[QuantLinear]) -> None:
    """Let layers have the first one's transform and quantizer of inputs, and compute both once."""
    first, once = layers[0], Once(len(layers))
    for place, layer in enumerate(layers):
        layer.transform, layer.inputs = first.transform, first.inputs
        layer.once = (once, place) if len(layers) > 1 else None
