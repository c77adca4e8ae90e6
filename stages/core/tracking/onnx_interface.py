"""What goes into an ONNX network and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tensor:
    """A named input or output; `kind` is a NumPy dtype, a free axis has length -1."""

    name: str
    kind: Any
    shape: tuple[int, ...]


def interface(proto: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs (constants left out) and outputs of an `onnx.ModelProto`."""
    from onnx import helper

    def described(values: Iterable[Any]) -> list[Tensor]:
        found = []
        for value in values:
            kind = value.type.tensor_type
            shape = tuple(d.dim_value if d.dim_value > 0 else -1 for d in kind.shape.dim)
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            found.append(Tensor(value.name, dtype, shape))
        return found

    constants = {entry.name for entry in proto.graph.initializer}
    inputs = described(v for v in proto.graph.input if v.name not in constants)
    return inputs, described(proto.graph.output)


def noise(inputs: Iterable[Tensor]) -> dict[str, Any]:
    """An input for each name: the same noise every time, free axes of length 1."""
    import numpy as np

    source = np.random.default_rng(0)
    return {
        t.name: source.standard_normal([max(d, 1) for d in t.shape]).astype(t.kind) for t in inputs
    }
