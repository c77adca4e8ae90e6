"""Quantized models as ONNX files that compute with integers.

torch's exporter writes the model with a mark in the place of each quantized layer; then each mark
becomes that layer's nodes. Transforms and branches beside layers are exported as they are.

A model agrees less well with torch's than its layers do, given equal inputs: between layers floats
round otherwise, and here and there an input then gets the next code. (In a factorised transformer
of 32 layers with 6-bit inputs the outputs differed by 0.6 %, root mean square; what a wrong graph
makes is far more.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.bench.export import export_onnx, strip
from stages.bench.kernels.graph import MICROSOFT, OPSET, Nodes
from stages.bench.kernels.kinds import Kernel
from stages.bench.kernels.nodes import layer_nodes
from stages.core.files import write_bytes
from stages.quantize.layers import QuantLinear, plain, quantized
from stages.quantize.swap import replace

MARK = "retort"
"""The marks' domain; no file keeps it."""
IR = 10
"""Version of the file format, which every runtime in use reads."""


def export(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    kernel: Kernel,
    *,
    saturating: bool,
) -> None:
    """Write a quantized model as one ONNX file of fixed shape, its layers on `kernel`.

    Equal models give equal bytes. The model is left as it was; its layers should be fixed, as what
    is written are their codes.

    Args:
        model: with quantized layers, in float32 on the CPU.
        example: its positional inputs; their shapes become the file's.
        inputs, outputs: names, in order.
        kernel: `full` writes the teacher.
        saturating: whether the processor that will run it saturates
            (`stages.bench.kernels.check.saturating`); 8-bit weights then lie unsigned, and slow.

    Raises:
        UserError: the kernel cannot do a layer's grids.
    """
    if kernel == "full":
        with plain(model):
            export_onnx(model, example, path, inputs, outputs)
        return
    layers = quantized(model)
    with _marked(model):
        export_onnx(model, example, path, inputs, outputs)
    import onnx
    from onnx import version_converter

    proto = version_converter.convert_version(onnx.load(path), OPSET)
    _fill(proto, layers, kernel, saturating)
    write_bytes(path, proto.SerializeToString(deterministic=True))


def export_layer(
    layer: QuantLinear, tokens: int, path: Path, kernel: Kernel, *, saturating: bool
) -> None:
    """Write one layer, without transform and branch, as a file with input "x" (tokens, in).

    As `export`, but it takes milliseconds: for benches over many shapes.

    Raises:
        ValueError: the layer has a transform or a branch, which would be left out.
    """
    if layer.transform is not None or layer.beside is not None:
        raise ValueError("the layer has a transform or a branch: export a model that holds it")
    if kernel == "full":
        made, y = _full(layer)
    else:
        made, y, _ = layer_nodes(layer, kernel, "x", "layer", rounded=False, saturating=saturating)
    write_bytes(path, layer_model(layer, made, y, tokens).SerializeToString(deterministic=True))


def layer_model(
    layer: QuantLinear, made: Nodes, y: str, tokens: int, more: Sequence[Any] = ()
) -> Any:
    """An `onnx.ModelProto` around a layer's nodes: "x" (tokens, in) to "y" (tokens, out).

    Args:
        more: further outputs, as `onnx.ValueInfoProto`.
    """
    from onnx import TensorProto, helper

    made.nodes.append(helper.make_node("Identity", [y], ["y"]))
    x_info, y_info = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [tokens, size])
        for name, size in (("x", layer.in_features), ("y", layer.out_features))
    )
    graph = helper.make_graph(made.nodes, "graph", [x_info], [y_info, *more], made.constants)
    sets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    proto = helper.make_model(graph, opset_imports=sets, ir_version=IR)
    strip(proto)
    return proto


def _full(layer: QuantLinear) -> tuple[Nodes, str]:
    made = Nodes("layer")
    y = made.add("MatMul", "x", made.constant(layer.weight.detach().float().T.numpy()))
    if layer.bias is not None:
        y = made.add("Add", y, made.constant(layer.bias.detach().float().numpy()))
    return made, y


class _Mark(nn.Module):
    """Stands for a quantized layer while its model is exported."""

    def __init__(self, name: str, layer: QuantLinear) -> None:
        super().__init__()
        self.name, self.rows = name, layer.out_features
        self.transform, self.beside = layer.transform, layer.beside

    def forward(self, x: Tensor) -> Tensor:
        if self.transform is not None:
            x = self.transform.inputs(x)  # type: ignore[operator]
        flat = x.flatten(0, -2)
        shapes = [(len(flat), self.rows)]
        if self.beside is not None:
            shapes.append((len(flat), flat.shape[1]))
        made = torch.onnx.ops.symbolic_multi_out(
            f"{MARK}::Layer", (flat,), {"layer": self.name},
            dtypes=[torch.float32] * len(shapes), shapes=shapes, version=1,
        )  # fmt: skip
        y = made[0].view(*x.shape[:-1], self.rows)
        return y if self.beside is None else y + self.beside(made[1].view(x.shape))


@contextmanager
def _marked(model: nn.Module) -> Iterator[None]:
    """Marks in the place of the quantized layers, under all their names."""
    found = model.named_modules(remove_duplicate=False)
    places = {name: layer for name, layer in found if isinstance(layer, QuantLinear)}
    first = {layer: name for name, layer in quantized(model).items()}
    marks = {layer: _Mark(name, layer) for layer, name in first.items()}
    try:
        for name, layer in places.items():
            replace(model, name, marks[layer])
        yield
    finally:
        for name, layer in places.items():
            replace(model, name, layer)


def _fill(proto: Any, layers: dict[str, QuantLinear], kernel: Kernel, saturating: bool) -> None:
    """Put the layers' nodes in the place of their marks, in an `onnx.ModelProto`."""
    from onnx import helper

    graph, nodes, known = proto.graph, [], set()
    for number, node in enumerate(graph.node):
        if node.domain != MARK:
            nodes.append(node)
            continue
        name = next(a.s.decode() for a in node.attribute if a.name == "layer")
        wanted = len(node.output) > 1
        made, *ends = layer_nodes(
            layers[name], kernel, node.input[0], f"{name}/{number}",
            rounded=wanted, saturating=saturating,
        )  # fmt: skip
        nodes += made.nodes
        for end, output in zip(ends, node.output, strict=False):
            nodes.append(helper.make_node("Identity", [end], [output]))
        graph.initializer.extend(made.constants)
        known.add(name)
    if known != set(layers):
        raise RuntimeError(f"not in the exported graph: {sorted(set(layers) - known)}")
    del graph.node[:]
    graph.node.extend(nodes)
    sets = [s for s in proto.opset_import if s.domain not in (MARK, MICROSOFT)]
    del proto.opset_import[:]
    proto.opset_import.extend([*sets, helper.make_opsetid(MICROSOFT, 1)])
    strip(proto)
