"""Nodes and constants of an ONNX graph while it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

OPSET = 21
"""Version of the operator set, the first with integers of 4 bits."""

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

FLOAT, UINT8, INT8, UINT4, INT4 = 1, 2, 3, 21, 22
"""Types by their numbers in `onnx.TensorProto`."""

Array = NDArray[Any]


@dataclass
class Nodes:
    """What a layer needs in a graph.

    Attributes:
        prefix: of all names made here.
        nodes, constants: in the order in which they were made.
        named: values of interest -> their names, for those who check them.
    """

    prefix: str
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node of one output, whose name is given back; "" stands for an input left out."""
        return self.several(1, operator, *inputs, domain=domain, **attributes)[0]

    def several(
        self, count: int, operator: str, *inputs: str, domain: str = "", **attributes: Any
    ) -> list[str]:
        """A node of `count` outputs."""
        from onnx import helper

        place = f"{self.prefix}/{len(self.nodes)}"
        names = [f"{place}.{number}" for number in range(count)]
        self.nodes.append(
            helper.make_node(operator, inputs, names, name=place, domain=domain, **attributes)
        )
        return names

    def constant(self, values: Array) -> str:
        from onnx import numpy_helper

        name = f"{self.prefix}/constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def packed(self, values: NDArray[np.uint8], shape: tuple[int, ...], kind: int) -> str:
        """Integers of 4 bits, two to a byte, the first in the lower half."""
        from onnx import TensorProto

        name = f"{self.prefix}/constant{len(self.constants)}"
        made = TensorProto(name=name, dims=shape, data_type=kind, raw_data=values.tobytes())
        self.constants.append(made)
        return name

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def code(self, value: int) -> str:
        """A uint8 scalar."""
        return self.constant(np.array(value, np.uint8))
