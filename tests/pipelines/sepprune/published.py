"""The separators as published, and MACs counted as the published figures were.

The figures of SepPrune's table 1 for one second at 16 kHz are what ptflops 0.7.2 to 0.7.3 prints
for the authors' networks, to the last printed digit. That program differs from `structure.count`:

* it adds one per output for a bias, and for each activation, norm and pooled input it knows
  (the hand-written GlobLN it does not know: 0);
* an activation or up-sampling that is a module counts twice, as a module and as the function that
  the module calls;
* a transposed convolution counts all its weights at every output sample, though with a stride each
  output meets only a share of them (the decoder is 20 times too dear at stride 20);
* TDANet's attention counts its two products as a module and again as functions, which is 0.001 G
  and left out here;
* up-sampling to a size given as a number counts as that number, not as the elements made.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipelines.sepprune.separators import tdanet
from pipelines.sepprune.separators.frame import Separator
from stages.calibrate.structure import structure

RATE = 16000
WIDE = {"voices": 2, "basis": 512, "hidden": 512}
CONFIGS: dict[str, dict[str, Any]] = {
    "sudormrf": {
        **WIDE, "name": "sudormrf", "kernel": 21, "stride": 10, "bottleneck": 128, "blocks": 16,
        "depth": 5,
    },
    "afrcnn": {
        **WIDE, "name": "afrcnn", "kernel": 41, "stride": 20, "bottleneck": 512, "iterations": 12,
        "depth": 4,
    },
    "tdanet": {
        **WIDE, "name": "tdanet", "basis": 33, "kernel": 64, "stride": 16, "bottleneck": 128,
        "ffn": 1024, "heads": 8, "iterations": 16, "depth": 5, "attention_axis": "batch",
    },
}  # fmt: skip
CONFIGS["afrcnn-16"] = {**CONFIGS["afrcnn"], "iterations": 16}


def published_macs(model: Separator) -> int:
    """Counts one second as ptflops does in total: modules, and the functions that they call."""
    example = torch.zeros(1, RATE, device="meta")
    products = int(structure(model, example)["macs"].sum())
    return products + _extra(model, example, functions=True)


def published_module_macs(model: Separator) -> int:
    """Counts the separation module as ptflops does in its list of modules: functions left out."""
    seen: list[Tensor] = []
    hook = model.sm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model.eval()(torch.zeros(1, RATE, device="meta"))
    hook.remove()
    products = int(structure(model.sm, seen[0])["macs"].sum())
    return products + _extra(model.sm, seen[0], functions=False)


def _extra(model: nn.Module, example: Tensor, functions: bool) -> int:
    extra = _Extra(functions)
    hooks = [module.register_forward_hook(extra.module) for module in model.modules()]
    # The authors' network calls torch's pooling, which ptflops counts.
    pooled = mock.patch.object(tdanet, "average_pool", F.adaptive_avg_pool1d)
    with torch.no_grad(), extra, pooled:
        model.eval()(example)
    for hook in hooks:
        hook.remove()
    return extra.total


class _Extra(TorchFunctionMode):
    """Sums what ptflops counts beyond products; `functions`: also per function called."""

    def __init__(self, functions: bool) -> None:
        super().__init__()
        self.total, self.functions = 0, functions

    def module(self, module: nn.Module, args: tuple[Tensor, ...], out: Any) -> None:
        if isinstance(module, nn.ConvTranspose1d):
            spread = out.shape[-1] - args[0].shape[-1]
            self.total += module.weight.numel() * spread
        elif isinstance(module, nn.Conv1d):
            self.total += 0 if module.bias is None else out.numel()
        elif isinstance(module, nn.PReLU | nn.LayerNorm):
            self.total += out.numel()
        elif isinstance(module, nn.MultiheadAttention):
            steps, others, width = args[0].shape
            self.total += others * (5 * steps * width + module.num_heads * steps * steps)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        scale, size = kwargs.get("scale_factor"), kwargs.get("size")
        if func is F.interpolate and scale:  # a module in the authors' SuDoRM-RF
            self.total += (1 + self.functions) * int(args[0].numel() * scale)
        elif func is F.relu:  # a module in the authors' networks
            self.total += (1 + self.functions) * args[0].numel()
        elif func is F.interpolate and self.functions:
            self.total += size
        elif func in (F.prelu, F.adaptive_avg_pool1d) and self.functions:
            self.total += args[0].numel()
        return func(*args, **kwargs)
