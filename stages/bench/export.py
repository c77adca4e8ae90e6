"""ONNX files that hold a network and nothing else.

The shape is fixed: these networks pool statistics over the whole input (GlobLN, adaptive pooling),
so that a bench of one second says nothing about ten, and ONNX Runtime plans memory and folds
shapes only when they are constant (the same small separator took 2.1 ms with a fixed and 3.1 ms
with a dynamic time axis). The exporter is torch's current one: the older TorchScript one is faster
(0.4 s against 2.6 s) but cannot export adaptive pooling to a size that does not divide the input.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError

if TYPE_CHECKING:
    import torch

OPSET = 18
"""Version of the ONNX operator set; old enough for every edge runtime in use."""


def export_onnx(
    model: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Write `model`, in evaluation mode and on the CPU, as one ONNX file of fixed shape.

    Equal weights and shapes give equal bytes, in any process: paths, stack traces, producer and
    documentation strings are removed.

    Args:
        model: the network; its training mode is restored afterwards.
        example: its positional inputs; their shapes become the file's.
        path: file to write; weights are inside it.
        inputs: names of the inputs, in order.
        outputs: names of the outputs, in order.
    """
    import torch

    was_training = model.training
    model.eval()
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
    finally:
        model.train(was_training)
    assert program is not None  # None only when the exporter is asked to write the file itself
    proto = program.model_proto
    strip(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def strip(proto: Any) -> None:
    """Remove from an `onnx.ModelProto` all that does not change what it computes, in place."""
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        proto.ClearField(field)
    proto.ClearField("metadata_props")
    proto.graph.name = "graph"
    _strip_graph(proto.graph)
    for function in proto.functions:
        function.ClearField("doc_string")
        function.ClearField("metadata_props")
        _strip_nodes(function.node)


def agreement(
    model: torch.nn.Module,
    path: Path,
    examples: Sequence[tuple[torch.Tensor, ...]],
    tolerance: float,
) -> float:
    """Largest relative difference between an ONNX file and the network it was made from.

    Args:
        model: the network; evaluated without gradients, its training mode restored.
        path: the ONNX file, run by ONNX Runtime on one thread.
        examples: inputs to compare on, each a tuple of tensors on the CPU.
        tolerance: largest difference allowed.

    Returns:
        The largest over examples and outputs of max|onnx - torch| / max|torch|.

    Raises:
        UserError: when it exceeds `tolerance` or is not finite.
    """
    import numpy as np
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    was_training = model.training
    model.eval()
    worst = 0.0
    try:
        for example in examples:
            with torch.no_grad():
                expected = model(*example)
            if isinstance(expected, torch.Tensor):
                expected = (expected,)
            feeds = {name: x.numpy() for name, x in zip(names, example, strict=True)}
            for ours, theirs in zip(session.run(None, feeds), expected, strict=True):
                reference = theirs.numpy()
                scale = float(np.abs(reference).max())
                difference = float(np.abs(np.asarray(ours) - reference).max())
                worst = float(np.maximum(worst, difference / scale if scale else difference))
    finally:
        model.train(was_training)
    if not worst <= tolerance:  # also true for nan
        raise UserError(
            f"{path.name}: ONNX Runtime's output differs from torch's by {worst:.2e} of its "
            f"largest value, more than the tolerance {tolerance:.0e}. Raise bench's `tolerance` "
            "only if the network is known to be ill-conditioned; otherwise the export is wrong."
        )
    return worst


def _strip_graph(graph: Any) -> None:
    # value_info holds the shapes of intermediate results, which runtimes infer for themselves.
    for field in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
        graph.ClearField(field)
    for entry in (*graph.input, *graph.output, *graph.initializer):
        entry.ClearField("doc_string")
        entry.ClearField("metadata_props")
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Any) -> None:
    for node in nodes:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.HasField("g"):
                _strip_graph(attribute.g)
            for graph in attribute.graphs:
                _strip_graph(graph)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's notes on optional packages and on its own use of old interfaces."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
