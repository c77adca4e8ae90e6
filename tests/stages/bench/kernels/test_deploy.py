"""Whole models and single layers as files: what they compute, hold and leave behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from stages.bench.export import agreement
from stages.bench.kernels.deploy import export, export_layer
from stages.bench.kernels.kinds import KERNELS, Kernel, computing
from stages.quantize.layers import QuantLinear, quantized
from stages.quantize.lowrank import put_beside
from stages.quantize.swap import Rule, swap
from stages.quantize.transforms import Rotation
from tests.stages.quantize.specs import Added, Net, inputs, noise, weights

Files = Callable[[Kernel], Path]
X = noise(2, 4, 3)
TOLERANCE: dict[Kernel, float] = {"full": 1e-5, "exact": 1e-5, "tensor": 1e-5, "blocks": 5e-3}


class Frames(nn.Module):
    """A branch that needs the shape of the inputs: a gain by token."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 2, 4))
        self.mix = nn.Parameter(0.2 * noise(columns, rows, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.gain[:, None]) @ self.mix


def model(**weight: Any) -> Net:
    """With a transform, an inner branch and two kinds of branches beside layers."""
    net = Net()
    swap(net, [Rule(pattern="blocks.*", weights=weights(**weight), inputs=inputs())])
    layers = quantized(net)
    first, second, third, *_ = layers.values()
    first.transform = Rotation.hadamard(first.in_features, torch.Generator().manual_seed(0))
    first.inner = Added(0.1 * noise(first.out_features, first.in_features))
    second.beside = Frames(second.in_features, second.out_features)
    put_beside(third, 2)
    for layer in layers.values():
        layer.calibrate()
    return net.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kernel], Path]:
    """The model's file for a kernel, made when it is first asked for: it takes seconds."""
    folder = tmp_path_factory.mktemp("kernels")

    @cache
    def made(kernel: Kernel) -> Path:
        path = folder / f"{kernel}.onnx"
        export(model(), (X,), path, ["x"], ["y"], kernel, saturating=True)
        return path

    return made


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_file_computes_what_the_model_does(files: Files, kernel: Kernel) -> None:
    net = model()
    examples = [(X,), (noise(2, 4, 3, seed=8),)]
    with computing(net, kernel):
        agreement(net, files(kernel), examples, TOLERANCE[kernel])


def test_it_is_no_other_model(files: Files) -> None:
    net = model(bits=3)
    with pytest.raises(Exception, match="differs from torch's"):
        agreement(net, files("exact"), [(X,)], TOLERANCE["exact"])


def test_nothing_of_the_export_is_left(files: Files) -> None:
    for kernel in KERNELS:
        path = files(kernel)
        proto = onnx.load(path)
        domains = {node.domain for node in proto.graph.node}
        assert domains <= {"", "com.microsoft"}
        assert {entry.domain for entry in proto.opset_import} <= {"", "com.microsoft"}
        assert not proto.producer_name and b"retort" not in path.read_bytes()
        operators = [node.op_type for node in proto.graph.node]
        products = {"exact": "MatMulIntegerToFloat", "tensor": "MatMulIntegerToFloat",
                    "blocks": "MatMulNBits"}  # fmt: skip
        if kernel in products:
            assert operators.count(products[kernel]) == 8


def test_export_leaves_the_model_alone_and_bytes_repeat(files: Files, tmp_path: Path) -> None:
    net = model()
    before, layers = net(X), quantized(net)
    export(net, (X,), tmp_path / "again.onnx", ["x"], ["y"], "exact", saturating=True)
    assert (tmp_path / "again.onnx").read_bytes() == files("exact").read_bytes()
    assert quantized(net) == layers and torch.equal(net(X), before)


def test_a_layer_under_two_names_is_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shared = QuantLinear(nn.Linear(8, 8), weights(symmetric=True), inputs(symmetric=True))
    net = nn.Sequential(shared, nn.Tanh(), shared).eval()
    export(net, (noise(4, 8),), tmp_path / "n.onnx", ["x"], ["y"], "exact", saturating=True)
    agreement(net, tmp_path / "n.onnx", [(noise(4, 8),)], 1e-5)
    assert net[0] is shared and net[2] is shared


def test_a_layer_that_is_never_called_is_told_of(tmp_path: Path) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = layer(8, 8), layer(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.used(x)
            return y

    with pytest.raises(RuntimeError, match=r"not in the exported graph: \['idle'\]"):
        export(
            Idle().eval(),
            (noise(4, 8),),
            tmp_path / "n.onnx",
            ["x"],
            ["y"],
            "exact",
            saturating=True,
        )


def layer(rows: int, columns: int, **weight: Any) -> QuantLinear:
    torch.manual_seed(0)
    return QuantLinear(nn.Linear(columns, rows), weights(**weight), inputs())


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_single_layer(kernel: Kernel, tmp_path: Path) -> None:
    net = nn.Sequential(layer(24, 64))
    export_layer(net[0], 5, tmp_path / "layer.onnx", kernel, saturating=True)
    with computing(net, kernel):
        agreement(net, tmp_path / "layer.onnx", [(noise(5, 64),)], TOLERANCE[kernel])


def test_four_bits_on_disk(tmp_path: Path) -> None:
    """A file holds 4 bits a code, a step and a zero point a row, and a graph of some nodes."""
    rows, columns = 256, 512
    made, sizes = layer(rows, columns), {}
    for kernel in KERNELS:
        export_layer(made, 5, tmp_path / "layer.onnx", kernel, saturating=True)
        sizes[kernel] = (tmp_path / "layer.onnx").stat().st_size
    assert sizes["full"] > 4 * rows * columns
    codes = rows * columns // 2
    for kernel in ("exact", "tensor", "blocks"):
        assert codes < sizes[kernel] < codes + 20 * rows + 3000


@pytest.mark.parametrize("shape", [(3, 5), (7, 64)], ids=str)
def test_odd_numbers_of_codes(shape: tuple[int, int], tmp_path: Path) -> None:
    net = nn.Sequential(layer(*shape, symmetric=True))
    x = noise(4, shape[1])
    export_layer(net[0], 4, tmp_path / "layer.onnx", "exact", saturating=True)
    agreement(net, tmp_path / "layer.onnx", [(x,)], 1e-5)


def test_parts_of_a_layer_are_not_left_out_in_silence(tmp_path: Path) -> None:
    made = layer(8, 8)
    made.beside = Frames(8, 8)
    with pytest.raises(ValueError, match="a transform or a branch"):
        export_layer(made, 4, tmp_path / "l.onnx", "exact", saturating=True)


@pytest.mark.parametrize("kernel", ["exact", "tensor"])
def test_codes_are_unpacked_once_while_loading(kernel: Kernel, tmp_path: Path) -> None:
    """What the runtime makes of the file holds 8-bit codes, and nothing that unpacks them."""
    import onnxruntime

    export_layer(layer(24, 64), 5, tmp_path / "layer.onnx", kernel, saturating=True)
    packed = {
        tuple(c.dims): c.data_type for c in onnx.load(tmp_path / "layer.onnx").graph.initializer
    }
    assert packed[64, 24] == onnx.TensorProto.INT4
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        str(tmp_path / "layer.onnx"), options, providers=["CPUExecutionProvider"]
    )
    loaded = onnx.load(tmp_path / "loaded.onnx").graph
    shapes = {tuple(c.dims): c.data_type for c in loaded.initializer}
    assert shapes[64, 24] == onnx.TensorProto.INT8
