import hashlib
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

from stages.bench.export import OPSET, agreement, export_onnx
from stages.core.errors import UserError
from tests.stages.bench.nets import seeded

MIX = (torch.linspace(-1, 1, 800)[None],)
ANOTHER_PROCESS = """
import sys
from pathlib import Path
from tests.stages.bench.nets import seeded
from tests.stages.bench.test_export import MIX
from stages.bench.export import export_onnx
export_onnx(seeded(), MIX, Path(sys.argv[1]), ["mix"], ["sources"])
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "small.onnx"
    export_onnx(seeded(), MIX, path, ["mix"], ["sources"])
    return path


def test_one_file_of_fixed_shape_with_the_given_names(exported):
    assert [p.name for p in exported.parent.iterdir()] == ["small.onnx"]
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == OPSET
    (mix,), (sources,) = model.graph.input, model.graph.output
    assert (mix.name, sources.name) == ("mix", "sources")
    assert [d.dim_value for d in mix.type.tensor_type.shape.dim] == [1, 800]
    assert [d.dim_value for d in sources.type.tensor_type.shape.dim] == [1, 2, 800]


def test_nothing_but_the_network_is_in_it(exported):
    model = onnx.load(exported)
    assert not (model.producer_name or model.producer_version or model.doc_string)
    assert not model.metadata_props and not model.graph.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    data = exported.read_bytes()
    for trace in (b"pytorch", b"nets.py", b"forward", str(Path.cwd()).encode()):
        assert trace not in data, trace


def test_equal_weights_give_equal_bytes_in_this_process_and_in_another(exported, tmp_path, root):
    again = tmp_path / "again.onnx"
    export_onnx(seeded(5), MIX, again, ["mix"], ["sources"])  # another net in between
    export_onnx(seeded(), MIX, again, ["mix"], ["sources"])
    other = tmp_path / "other.onnx"
    env = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(root)}
    words = [sys.executable, "-c", ANOTHER_PROCESS, str(other)]
    subprocess.run(words, cwd=tmp_path, env=env, check=True, capture_output=True)
    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (exported, again, other)}
    assert len(digests) == 1


def test_export_is_of_evaluation_mode_and_leaves_the_mode_alone(exported, tmp_path):
    net = seeded().train()
    export_onnx(net, MIX, tmp_path / "trained.onnx", ["mix"], ["sources"])
    assert net.training
    assert (tmp_path / "trained.onnx").read_bytes() == exported.read_bytes()


def test_the_output_agrees_with_torch_on_other_inputs(exported):
    examples = [(torch.randn(1, 800),) for _ in range(3)]
    net = seeded().train()
    assert 0 < agreement(net, exported, examples, 1e-4) < 1e-5
    assert net.training


def test_another_network_is_found_out(exported):
    net = seeded()
    with torch.no_grad():
        net.decoder.weight *= 1.01
    with pytest.raises(UserError, match=r"small\.onnx.*more than the tolerance 1e-04"):
        agreement(net, exported, [MIX], 1e-4)


def test_an_output_that_is_no_number_is_found_out(exported):
    with pytest.raises(UserError, match="nan"):
        agreement(seeded(), exported, [(torch.full((1, 800), torch.nan),)], 1e-4)
