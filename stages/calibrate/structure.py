"""Where a network spends its arithmetic, parameters and memory, module by module.

Counted are multiply-accumulates (MACs) of convolutions, linear layers and attention: products
alone, as on paper. Biases, norms and activations count as none. A module that is used many times
counts its MACs and activations as often, its parameters once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import pandas

COLUMNS = ("module", "kind", "uses", "macs", "parameters", "activation_bytes", "share")


@dataclass
class _Row:
    kind: str
    parameters: int
    uses: int = 0
    macs: int = 0
    activation_bytes: int = 0


def structure(model: nn.Module, example: Tensor) -> pandas.DataFrame:
    """Runs a network once, without gradients and in eval mode, and lists its modules.

    Args:
        model: The network; its training mode is restored.
        example: Its input, with the batch that is to be counted (1 as a rule).

    Returns:
        One row per module that computes something or owns parameters, in the order of
        `named_modules`:
        `module` name; `kind` ("1x1 conv", "depth-wise conv", "conv", "transposed conv", "linear",
        "attention", else the class's name); `uses` calls in one pass; `macs` over all uses;
        `parameters` its own; `activation_bytes` size of its outputs over all uses; `share` of all
        MACs. The columns `macs` and `parameters` sum to what `count` gives.
    """
    import pandas

    rows = _walk(model, example)
    total = sum(row.macs for row in rows.values()) or 1
    return pandas.DataFrame(
        [(name, row.kind, row.uses, row.macs, row.parameters, row.activation_bytes,
          row.macs / total) for name, row in rows.items()],
        columns=list(COLUMNS),
    )  # fmt: skip


def count(model: nn.Module, example: Tensor) -> tuple[int, int]:
    """Counts a network's MACs for `example` and its parameters.

    Returns:
        (MACs, parameters), shared modules as in `structure`.
    """
    rows = _walk(model, example).values()
    return sum(row.macs for row in rows), sum(row.parameters for row in rows)


def _walk(model: nn.Module, example: Tensor) -> dict[str, _Row]:
    """Runs the network with a hook on every module that is not only a container."""
    rows: dict[str, _Row] = {}
    hooks = []
    seen: set[int] = set()
    for name, module in units(model):
        fresh = [p for p in _own(module) if id(p) not in seen]
        seen.update(id(p) for p in fresh)
        row = rows[name] = _Row(_kind(module), sum(p.numel() for p in fresh))
        hooks.append(module.register_forward_hook(_counting(row), with_kwargs=True))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(example)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return {name: row for name, row in rows.items() if row.parameters or row.uses}


def units(model: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    """The leaves, attention as a whole, and containers that own parameters of their own."""
    children = [] if _is_whole(model) else list(model.named_children())
    found = [] if children and not list(model.parameters(recurse=False)) else [(name, model)]
    for child, module in children:
        found += units(module, f"{name}.{child}" if name else child)
    return found


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=_is_whole(module)))


def _is_whole(module: nn.Module) -> bool:
    # Its output layer is never called as a module.
    return isinstance(module, nn.MultiheadAttention)


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "transposed conv"
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups > 1 and module.groups == module.in_channels:
            return "depth-wise conv"
        return "1x1 conv" if max(module.kernel_size) == 1 and module.groups == 1 else "conv"
    if isinstance(module, nn.Linear):
        return "linear"
    return "attention" if isinstance(module, nn.MultiheadAttention) else type(module).__name__


def _counting(row: _Row) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        result = out[0] if isinstance(out, tuple) else out
        row.uses += 1
        row.macs += _macs(module, args, kwargs, result)
        row.activation_bytes += result.numel() * result.element_size()

    return hook


def _macs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> int:
    if isinstance(module, nn.modules.conv._ConvNd):
        # Each weight meets each position once: of the input where it is spread, else the output.
        spread = isinstance(module, nn.modules.conv._ConvTransposeNd)
        seen, channels = (args[0], module.in_channels) if spread else (out, module.out_channels)
        return module.weight.numel() * (seen.numel() // channels)
    if isinstance(module, nn.Linear):
        return out.numel() * module.in_features
    if isinstance(module, nn.MultiheadAttention):
        return _attention_macs(module, *(args or kwargs.values()))
    return 0


def _attention_macs(
    module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, *_: Any
) -> int:
    """Three projections in, scores, weighted sum, one projection out."""
    width, batched = module.embed_dim, query.dim() == 3
    time = 1 if batched and module.batch_first else 0
    batch = query.shape[1 - time] if batched else 1
    rows, columns = query.shape[time], key.shape[time]
    projections = 2 * query.numel() * width + (key.numel() + value.numel()) * width
    return projections + 2 * batch * rows * columns * width
