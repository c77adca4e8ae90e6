"""A quantized model to a file and back: the same outputs, the same bytes, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from stages.core.errors import UserError
from stages.quantize import store
from stages.quantize.layers import QuantLinear, quantized
from stages.quantize.shared import share
from stages.quantize.swap import Rule, swap
from tests.stages.quantize.specs import Added, Net, Scaled, Thin, inputs, noise, weights

X = noise(2, 4, 3, seed=4)


def trained() -> Net:
    """A net whose layers show every kind of grid and part."""
    net = Net()
    static = inputs(bits=8, granularity="tensor", dynamic=False)
    layers = swap(
        net,
        [
            Rule(pattern="blocks.0.to_q", weights=weights(bits=3, clip="searched"), inputs=static),
            Rule(
                pattern="blocks.0.*",
                weights=weights(bits=5, clip="learned", symmetric=True, dynamic=True),
                inputs=inputs(clip="learned", symmetric=True),
            ),
            Rule(
                pattern="*.ff.*",
                weights=weights(bits=4, granularity="group", group=4),
                inputs=None,
            ),
            Rule(pattern="blocks.*", weights=weights(rounding="learned"), inputs=inputs()),
        ],
    )
    first = layers["blocks.0.to_q"].inputs
    assert first is not None
    first.observe(noise(50, 8))
    layer = layers["blocks.1.to_q"]
    layer.transform, layer.inner = Scaled(torch.rand(8) + 0.5), Added(0.1 * noise(8, 8))
    layer.beside = Thin(8, 8)
    layer.calibrate()
    assert layer.weights.rounding is not None
    layer.weights.rounding.logits.data += 2 * noise(8, 8, seed=3)
    return net


def empty_parts(name: str, part: str, columns: int, rows: int) -> nn.Module:
    assert name == "blocks.1.to_q"
    return Scaled(torch.ones(columns)) if part == "transform" else Thin(columns, rows, seed=0)


@pytest.mark.parametrize("dense", [True, False])
def test_a_loaded_model_computes_the_same_bits(tmp_path: Path, dense: bool) -> None:
    net, path = trained(), tmp_path / "net.safetensors"
    for layer in quantized(net).values():
        layer.fix()
    expected = net(X)
    size = store.save(net, path, dense=dense)
    assert size == path.stat().st_size
    fresh = Net(seed=1)
    layers = store.load(fresh, path, empty_parts)
    assert list(layers) == sorted(quantized(net))
    assert torch.equal(fresh(X), expected)
    for name, layer in quantized(net).items():
        assert all(map(torch.equal, layers[name].codes(), layer.codes()))
    assert all(layer.adopted for layer in layers.values())
    again = tmp_path / "again.safetensors"
    store.save(fresh, again, dense=dense)
    assert torch.equal(fresh(X), expected)
    # What was learned to find the codes is not stored; what is stored comes back.
    assert load_file(again).keys() == load_file(path).keys()
    assert all(torch.equal(load_file(again)[k], t) for k, t in load_file(path).items())


def test_a_quantized_model_lends_its_parts(tmp_path: Path) -> None:
    net, path = trained(), tmp_path / "net.safetensors"
    store.save(net, path, dense=True)
    other = trained()
    other.head.weight.data.zero_()
    layer = other.get_submodule("blocks.1.to_q")
    assert isinstance(layer, QuantLinear) and isinstance(layer.transform, Scaled)
    layer.transform.scale.data.fill_(1.0)
    store.load(other, path)
    for layer in quantized(net).values():
        layer.fix()
    assert torch.equal(other(X), net(X))


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        torch.manual_seed(3)
        store.save(trained(), tmp_path / name, dense=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_file_holds_no_full_precision_weight_and_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    store.save(trained(), path, dense=True)
    tensors = load_file(path)
    layer = "blocks.0.to_q"
    assert not any(key.startswith("blocks") and key.endswith("to_q.weight") for key in tensors)
    assert tensors[f"{layer}.codes"].dtype is torch.uint8
    assert len(tensors[f"{layer}.codes"]) == 8 * 8 * 3 // 8
    assert "embed.weight" in tensors and "places" in tensors
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[store.KEY])
    entry = header["layers"][layer]
    assert entry["weights"]["bits"] == 3 and (entry["rows"], entry["columns"]) == (8, 8)


def test_a_shared_layer_is_stored_once_and_comes_back_shared(tmp_path: Path) -> None:
    def shared(seed: int) -> Net:
        net = Net(seed=seed)
        net.blocks[1].to_q = net.blocks[0].to_q
        return net

    net, path = shared(0), tmp_path / "net.safetensors"
    swap(net, [Rule(pattern="blocks.*", weights=weights(), inputs=inputs())])
    store.save(net, path, dense=True)
    assert "blocks.1.to_q.codes" not in load_file(path)
    fresh = shared(1)
    store.load(fresh, path)
    assert fresh.blocks[0].to_q is fresh.blocks[1].to_q
    assert torch.equal(fresh(X), net(X))


def test_what_layers_share_is_stored_once_and_comes_back_shared(tmp_path: Path) -> None:
    """The owner is the first by name, so that it is there before whoever shares with it."""
    net, path = Net(), tmp_path / "net.safetensors"
    clipped = inputs(clip="learned", symmetric=True)
    layers = swap(net, [Rule(pattern="blocks.*", weights=weights(), inputs=clipped)])
    group = ["blocks.1.to_q", "blocks.1.ff.0", "blocks.0.to_q"]
    layers[group[0]].transform = Scaled(torch.rand(8) + 0.5)
    share([layers[name] for name in group])
    for layer in layers.values():
        layer.calibrate()
    store.save(net, path, dense=True)
    found = [key for key in load_file(path) if key.endswith("transform.scale")]
    assert found == ["blocks.0.to_q.transform.scale"]
    assert "blocks.1.to_q.inputs.clip.low" not in load_file(path)
    fresh = Net(seed=1)
    loaded = store.load(fresh, path, lambda *_: Scaled(torch.ones(8)))
    first, *others = (loaded[name] for name in group)
    for other in others:
        assert other.transform is first.transform and other.inputs is first.inputs
        assert first.once is not None and other.once is not None
        assert other.once[0] is first.once[0] and other.once[1] != first.once[1]
    assert loaded["blocks.1.to_out.0"].once is None
    assert torch.equal(fresh(X), net(X))


def test_half_precision_models_come_back_the_same(tmp_path: Path) -> None:
    net, path = Net().to(torch.bfloat16), tmp_path / "net.safetensors"
    swap(net, [Rule(pattern="blocks.*", weights=weights(), inputs=inputs())])
    store.save(net, path, dense=True)
    fresh = Net(seed=1).to(torch.bfloat16)
    store.load(fresh, path)
    x = X.to(torch.bfloat16)
    assert torch.equal(fresh(x), net(x))


def _rewrite(path: Path, change: Any) -> None:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    change(tensors, metadata)
    save_file(tensors, path, metadata)


Q = "blocks.0.to_q."
"""What stands in the file before the names of one layer's tensors."""


def _entry(metadata: dict[str, str], more: dict[str, Any] | None = None, **changes: Any) -> None:
    header = json.loads(metadata[store.KEY])
    entry = header["layers"][Q[:-1]]
    entry.update(changes)
    entry["weights"].update(more or {})
    metadata[store.KEY] = json.dumps(header)


def _fill(tensors: dict[str, Any]) -> None:
    """Codes and zero points of 8 bits, all the largest."""
    tensors[Q + "codes"], tensors[Q + "zero"] = torch.full((64,), 255).byte(), torch.ones(8).byte()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.clear(), "holds no quantized model"),
        (lambda t, m: m.update({store.KEY: '{"format": 9, "layers": {}}'}), "format 9"),
        (lambda t, m: m.update({store.KEY: '{"layers": {}}'}), "lacks its format"),
        (lambda t, m: m.update({store.KEY: "[]"}), "lacks its format"),
        (lambda t, m: m.update({store.KEY: "{"}), "is no JSON"),
        (lambda t, m: m.update({store.KEY: '{"format": 3}'}), "header, layers: Field required"),
        (lambda t, m: _entry(m, width=9), r"header, layers\.blocks\.0\.to_q\.width: "),
        (lambda t, m: _entry(m, parts={"inputs": "head"}), "'head', which has none"),
        (
            lambda t, m: t.update({Q + "scale": torch.ones(1, 1)}),
            r"scale is \(1, 1\), not \(8, 1\)",
        ),
        (
            lambda t, m: t.update({Q + "scale": torch.ones(8, 2)}),
            r"scale is \(8, 2\), not \(8, 1\)",
        ),
        (lambda t, m: t.update({Q + "zero": torch.ones(8).byte()}), "not 8"),
        (lambda t, m: t.update({Q + "bias": torch.ones(1)}), r"'bias' is \(1,\), not \(8,\)"),
        (lambda t, m: t.pop(Q + "bias"), r"'blocks\.0\.to_q': it lacks \['bias'\]"),
        (lambda t, m: t.update({Q + "more": torch.ones(1)}), r"beyond it \['more'\]"),
        (lambda t, m: _entry(m, width=8, more={"bits": 3}) or _fill(t), "codes from 255 to 255"),
        (lambda t, m: t.pop("blocks.0.to_q.codes"), r"'blocks\.0\.to_q' lacks its codes"),
        (lambda t, m: t.pop("blocks.0.to_q.zero"), r"'blocks\.0\.to_q' lacks its zero"),
        (lambda t, m: t.pop("head.bias"), r"lacks \['head\.bias'\]"),
        (lambda t, m: t.update(extra=torch.ones(1)), r"beyond it \['extra'\]"),
        (lambda t, m: t.update({"blocks.0.to_q.beside.up": torch.ones(1)}), "beyond it"),
        (lambda t, m: t.update({"head.bias": torch.ones(4)}), r"'head\.bias' is \(4,\)"),
        (lambda t, m: t.update({"blocks.0.to_q.codes": torch.ones(3).byte()}), "not 3"),
    ],
)
def test_a_file_that_does_not_suit_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "net.safetensors"
    net = Net()
    swap(net, [Rule(pattern="blocks.*", weights=weights(), inputs=inputs())])
    store.save(net, path, dense=True)
    _rewrite(path, change)
    fresh = Net(seed=1)
    before = fresh(X)
    with pytest.raises(UserError, match=message):
        store.load(fresh, path)
    assert torch.equal(fresh(X), before)


def test_a_refused_file_leaves_what_was_lent_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    store.save(trained(), path, dense=True)
    _rewrite(path, lambda t, m: t.pop("head.bias"))  # the last that is looked at
    other = trained()
    layer = other.get_submodule("blocks.1.to_q")
    assert isinstance(layer, QuantLinear) and isinstance(layer.transform, Scaled)
    layer.transform.scale.data.fill_(1.0)
    before, expected = {k: t.clone() for k, t in other.state_dict().items()}, other(X)
    with pytest.raises(UserError, match=r"lacks \['head\.bias'\]"):
        store.load(other, path)
    assert other.get_submodule("blocks.1.to_q") is layer
    assert all(torch.equal(t, before[k]) for k, t in other.state_dict().items())
    assert torch.equal(other(X), expected)


def test_other_mistakes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(UserError, match="no layer of the model is quantized"):
        store.save(Net(), path, dense=True)
    with pytest.raises(UserError, match=r"net\.safetensors is missing"):
        store.load(Net(), path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="no safetensors file"):
        store.load(Net(), path)
    store.save(trained(), path, dense=True)
    with pytest.raises(UserError, match=r"'blocks\.0\.ff\.0' is 16 × 8, in the model 24 × 12"):
        store.load(Net(width=12), path)
    with pytest.raises(UserError, match=r"no linear layer 'blocks\.1\.to_q'|no linear layer"):
        store.load(Net(depth=1), path)
    with pytest.raises(UserError, match=r"'blocks\.1\.to_q' has a transform; give `make`"):
        store.load(Net(), path)
