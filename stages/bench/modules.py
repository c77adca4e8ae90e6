"""Where the time of a forward pass goes, module by module: to be read beside where its MACs go."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stages.calibrate.structure import units


def module_times(model: nn.Module, example: Tensor, warmup: int, repeats: int) -> dict[str, float]:
    """Time inside each module that does work of its own, in milliseconds per forward pass.

    Args:
        model: on the device of `example`, a CPU; left in the mode it was in.
        example: one input.
        warmup: untimed passes first.
        repeats: timed passes; the median over them is given.

    Returns:
        Module name, as in `stages.calibrate.structure`, -> milliseconds; uses of a shared module
        in one pass are added up. What happens between modules is in none of them.
    """
    spent: dict[str, int] = defaultdict(int)
    begun: dict[str, int] = {}
    hooks = []
    for name, module in units(model):
        hooks.append(module.register_forward_pre_hook(_begin(begun, name)))
        hooks.append(module.register_forward_hook(_end(begun, spent, name)))
    training, passes = model.training, []
    model.eval()
    try:
        with torch.no_grad():
            for _ in range(warmup + repeats):
                spent.clear()
                model(example)
                passes.append(dict(spent))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    timed = passes[warmup:]
    return {name: statistics.median(p[name] for p in timed) / 1e6 for name in timed[0]}


def _begin(begun: dict[str, int], name: str) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        begun[name] = time.perf_counter_ns()

    return hook


def _end(begun: dict[str, int], spent: dict[str, int], name: str) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        spent[name] += time.perf_counter_ns() - begun[name]

    return hook
