"""A quantized model as a file: packed integers in safetensors, and a header that explains them.

Of a quantized layer `name` the file holds `name.codes` (packed, see `stages.quantize.pack`),
`name.scale`, `name.zero` (packed too; only where the grid is asymmetric), `name.bias`, and the
states `name.inputs.*`, `name.transform.*`, `name.beside.*`; what layers share stands under the
first one's name, and the header says so. Every other tensor stands under its own name. An inner
branch has gone into the codes, and the full-precision weight is not there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from stages.core.errors import UserError
from stages.core.files import write_bytes
from stages.core.params import Params
from stages.quantize import pack
from stages.quantize.bits import PARTS, full, owners, state
from stages.quantize.grids import Grid
from stages.quantize.layers import Codes, InputSpec, QuantLinear, WeightSpec, quantized
from stages.quantize.shared import share
from stages.quantize.swap import replace

KEY = "retort.quantized"
"""Of the header in safetensors' metadata: JSON, with `FORMAT` inside."""
FORMAT = 3
STEPS = ("codes", "scale", "zero")


class Entry(Params):
    """What the header says of a layer.

    Attributes:
        rows, columns: of its weight.
        width: bits that a code takes in the file.
        weights: the grid of its codes.
        inputs: how its inputs are quantized, or None.
        parts: which of `PARTS` it has -> the layer under whose name the part stands.
    """

    rows: int = Field(ge=1)
    columns: int = Field(ge=1)
    width: int = Field(ge=1, le=8)
    weights: Grid
    inputs: InputSpec | None
    parts: dict[str, str]


class Header(Params):
    format: int
    layers: dict[str, Entry]


Make = Callable[[str, str, int, int], nn.Module]
"""(layer's name, "transform" or "beside", in, out) -> a module of the right shapes to fill."""


def save(model: nn.Module, path: Path, *, dense: bool) -> int:
    """Write `model`, quantized layers as packed codes; the same model gives the same bytes.

    Args:
        dense: 3-, 5-, 6- and 7-bit codes without gaps; otherwise in the containers of kernels.

    Returns:
        The file's size in bytes.

    Raises:
        UserError: no layer of the model is quantized.
    """
    from safetensors.torch import save as serialise

    layers = quantized(model)
    if not layers:
        raise UserError("no layer of the model is quantized; swap layers before saving")
    tensors, headers, owner = full(model), {}, owners(model)
    for name, layer in layers.items():
        width = layer.weights.grid.bits if dense else pack.container(layer.weights.grid.bits)
        tensors |= {f"{name}.{key}": tensor for key, tensor in _tensors(layer, width).items()}
        for part in PARTS:
            if owner[name, part] == name:
                own = state(getattr(layer, part))
                tensors |= {f"{name}.{part}.{key}": tensor for key, tensor in own.items()}
        headers[name] = Entry(
            rows=layer.out_features,
            columns=layer.in_features,
            width=width,
            weights=layer.weights.grid,
            inputs=None if layer.inputs is None else layer.inputs.spec,
            parts={p: owner[name, p] for p in PARTS if getattr(layer, p) is not None},
        )
    # Clones: two names may share memory, which the format refuses.
    plain = {key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()}
    header = json.dumps(Header(format=FORMAT, layers=headers).model_dump(), sort_keys=True)
    data = serialise(plain, metadata={KEY: header})
    write_bytes(path, data)
    return len(data)


def _tensors(layer: QuantLinear, width: int) -> dict[str, Tensor]:
    grid, codes = layer.weights.grid, layer.codes()
    found = {
        "codes": pack.pack(codes.values.to(torch.int16) - grid.lowest, width),
        "scale": codes.scale,
    }
    if not grid.symmetric:
        found["zero"] = pack.pack(codes.zero, width)
    if layer.bias is not None:
        found["bias"] = layer.bias
    return found


def load(model: nn.Module, path: Path, make: Make | None = None) -> dict[str, QuantLinear]:
    """Fill `model` from a file of `save`; its linear layers become quantized ones.

    Args:
        model: of the saved architecture, with plain or quantized linear layers; a quantized one
            lends its transform and branch, copies of which are filled.
        make: makes transforms and branches that the model does not have yet.

    Returns:
        Name -> quantized layer.

    Raises:
        UserError: the file is none of `save`, or does not suit the model, which is then as it was.
    """
    header, tensors = _read(path)
    built: dict[str, QuantLinear] = {}
    for name, entry in header.items():
        prefix = f"{name}."
        own = {k.removeprefix(prefix): tensors.pop(k) for k in [*tensors] if k.startswith(prefix)}
        built[name] = _layer(model, path, name, entry, own, built, make)
    groups: dict[tuple[str, ...], list[QuantLinear]] = {}
    for name, entry in header.items():
        owner = [entry.parts.get(part, "") for part in ("transform", "inputs")]
        groups.setdefault(tuple(owner) if any(owner) else (name,), []).append(built[name])
    for group in groups.values():
        share(group)
    # Plain tensors are compared with the model as it will be: without the replaced layers.
    names = _aliases(model, built)
    inside = tuple(f"{name}." for name in names)
    wanted = {k: t for k, t in model.state_dict().items() if not k.startswith(inside)}
    _compare(path, "the model", wanted, tensors)
    for alias, name in names.items():
        replace(model, alias, built[name])
    model.load_state_dict(tensors, strict=False)
    return built


def _read(path: Path) -> tuple[dict[str, Entry], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path.name} is missing") from None
    except SafetensorError as error:
        raise UserError(f"{path.name} is no safetensors file: {error}") from None
    if KEY not in metadata:
        raise UserError(f"{path.name} holds no quantized model: its header lacks '{KEY}'")
    try:
        found = json.loads(metadata[KEY])
    except json.JSONDecodeError as error:
        raise UserError(f"{path.name}: '{KEY}' of its header is no JSON: {error}") from None
    if not isinstance(found, dict) or "format" not in found:
        raise UserError(f"{path.name}: '{KEY}' of its header lacks its format")
    if found["format"] != FORMAT:
        raise UserError(f"{path.name} has format {found['format']}; this code reads {FORMAT}")
    try:
        return Header.model_validate(found).layers, tensors
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path.name}: header, {place}: {first['msg']}") from None


def _layer(
    model: nn.Module,
    path: Path,
    name: str,
    entry: Entry,
    tensors: dict[str, Tensor],
    built: Mapping[str, QuantLinear],
    make: Make | None,
) -> QuantLinear:
    there = dict(model.named_modules()).get(name)
    rows, columns = entry.rows, entry.columns
    if not isinstance(there, nn.Linear | QuantLinear):
        raise UserError(f"{path.name}: the model has no linear layer '{name}'")
    if (there.out_features, there.in_features) != (rows, columns):
        raise UserError(
            f"{path.name}: '{name}' is {rows} × {columns}, "
            f"in the model {there.out_features} × {there.in_features}"
        )
    linear = nn.Linear(columns, rows, bias="bias" in tensors, device=there.weight.device)
    linear = linear.to(there.weight.dtype)
    try:
        weights = WeightSpec(grid=entry.weights, clip="max", norm=None, rounding="nearest")
        layer = QuantLinear(linear, weights, entry.inputs)
        layer.adopt(_codes(path, name, entry, tensors, linear.weight.device))
    except ValueError as error:
        raise UserError(f"{path.name}: '{name}': {error}") from None
    rest = {key: tensor for key, tensor in tensors.items() if key not in STEPS}
    for part in (part for part in PARTS if part in entry.parts):
        owner = entry.parts[part]
        if owner != name:
            if getattr(built.get(owner), part, None) is None:
                raise UserError(
                    f"{path.name}: '{name}' shares its {part} with '{owner}', which has none"
                )
            setattr(layer, part, getattr(built[owner], part))
            continue
        # A copy: what the model lends stays as it is if a later layer is refused.
        module = layer.inputs if part == "inputs" else deepcopy(getattr(there, part, None))
        if module is None and make is not None:
            module = make(name, part, columns, rows)
        if module is None:
            raise UserError(f"{path.name}: '{name}' has a {part}; give `make`, which builds it")
        prefix = f"{part}."
        own = {k.removeprefix(prefix): rest.pop(k) for k in tensors if k.startswith(prefix)}
        _compare(path, f"'{name}.{part}'", state(module), own)
        module.load_state_dict(own)
        setattr(layer, part, module.to(linear.weight.device))
    _compare(path, f"'{name}'", {} if there.bias is None else {"bias": there.bias}, rest)
    if layer.bias is not None:
        layer.bias.data.copy_(tensors["bias"])
    return layer.train(there.training)


def _codes(
    path: Path,
    name: str,
    entry: Entry,
    tensors: dict[str, Tensor],
    device: torch.device,
) -> Codes:
    """The codes as the file has them.

    Raises:
        UserError: a tensor is missing.
        ValueError: a shape is another one than the header says.
    """
    rows, columns, width, grid = entry.rows, entry.columns, entry.width, entry.weights
    shape = (1, 1) if grid.granularity == "tensor" else (rows, grid.groups(columns))
    try:
        flat = pack.unpack(tensors["codes"], width, rows * columns)
        scale = tensors["scale"]
        if tuple(scale.shape) != shape:
            raise ValueError(f"its scale is {tuple(scale.shape)}, not {shape}")
        zero = torch.zeros_like(scale)
        if not grid.symmetric:
            zero = pack.unpack(tensors["zero"], width, scale.numel()).view_as(scale).to(scale.dtype)
    except KeyError as error:
        raise UserError(f"{path.name}: '{name}' lacks its {error.args[0]}") from None
    whole = flat.to(torch.int16) + grid.lowest
    values = whole.to(torch.int8 if grid.symmetric else torch.uint8).view(rows, columns)
    return Codes(values.to(device), scale.to(device), zero.to(device))


def _aliases(model: nn.Module, built: dict[str, QuantLinear]) -> dict[str, str]:
    """Every name under which the model holds a layer that is replaced -> the layer's own name."""
    first = {model.get_submodule(name): name for name in built}
    found = model.named_modules(remove_duplicate=False)
    return {alias: first[module] for alias, module in found if module in first}


def _compare(path: Path, where: str, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    missing, beyond = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or beyond:
        raise UserError(
            f"{path.name} does not suit {where}: it lacks {missing[:5] or 'nothing'} "
            f"and has beyond it {beyond[:5] or 'nothing'}"
        )
    for key, tensor in wanted.items():
        if tensor.shape != found[key].shape:
            raise UserError(
                f"{path.name} does not suit {where}: '{key}' is {tuple(found[key].shape)}, "
                f"not {tuple(tensor.shape)}"
            )
