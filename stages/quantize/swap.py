"""Linear layers of any torch model, made quantized by name and made plain again."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from pydantic import model_validator
from torch import nn

from stages.core.errors import UserError
from stages.core.params import Params
from stages.quantize.layers import InputSpec, QuantLinear, WeightSpec, quantized

UNCALLED: dict[type[nn.Module], tuple[str, ...]] = {
    nn.MultiheadAttention: ("out_proj",),
    nn.TransformerEncoderLayer: ("linear1", "linear2"),
}
"""Layers whose weight their parent's own `forward` reads without calling them: attention always,
the encoder's layer in evaluation without gradients. What took their place would never act."""


class Rule(Params):
    """What becomes of the layers whose name matches `pattern` (`*` and `?` as in file names).

    Without `weights` they stay in full precision.
    """

    pattern: str
    weights: WeightSpec | None
    inputs: InputSpec | None

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        if self.weights is None and self.inputs is not None:
            raise ValueError("quantized inputs need a quantized weight")
        return self


def module_names(model: nn.Module) -> list[str]:
    """Names of all plain linear layers of `model`, in order; not those inside a quantized layer."""
    inside = tuple(f"{name}." for name in quantized(model))
    found = model.named_modules(remove_duplicate=False)
    return [n for n, m in found if isinstance(m, nn.Linear) and not n.startswith(inside)]


def assign(names: Sequence[str], plan: Sequence[Rule]) -> dict[str, Rule]:
    """Name -> the first rule that matches; a name without one is left out.

    Raises:
        UserError: a rule takes no name, because nothing matches or earlier rules took all.
    """
    taken: dict[str, Rule] = {}
    for rule in plan:
        matching = [name for name in names if fnmatchcase(name, rule.pattern)]
        free = [name for name in matching if name not in taken]
        if not matching:
            near = get_close_matches(rule.pattern, names, n=3, cutoff=0.0)
            raise UserError(
                f"no linear layer matches '{rule.pattern}'; the nearest names are "
                f"{', '.join(near) or 'none: the model has no linear layer'}"
            )
        if not free:
            raise UserError(
                f"the rule for '{rule.pattern}' never acts: earlier rules take all it matches; "
                "put it before them, or drop it"
            )
        taken.update(dict.fromkeys(free, rule))
    return {name: taken[name] for name in names if name in taken}


def swap(model: nn.Module, plan: Sequence[Rule]) -> dict[str, QuantLinear]:
    """Replace linear layers in place, by the first rule that matches; the others stay.

    A layer that the model holds under several names stays one layer, under the rule of the first.

    Returns:
        Name -> quantized layer, in the order of the modules.

    Raises:
        UserError: a rule takes no layer, its group does not divide a layer's width, or a layer is
            one of `UNCALLED`. No layer is replaced then.
    """
    made: dict[nn.Module, QuantLinear | None] = {}
    swapped: dict[str, QuantLinear] = {}
    for name, rule in assign(module_names(model), plan).items():
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        if linear not in made:
            made[linear] = _quantized(name, linear, rule)
        layer = made[linear]
        if layer is not None:
            _check_called(model, name, rule)
            swapped[name] = layer
    for name, layer in swapped.items():
        replace(model, name, layer)
    return swapped


def _check_called(model: nn.Module, name: str, rule: Rule) -> None:
    parent, _, child = name.rpartition(".")
    holder = model.get_submodule(parent)
    for kind, children in UNCALLED.items():
        # A subclass with a `forward` of its own is taken to call its layers.
        if child in children and type(holder).forward is kind.forward:
            raise UserError(
                f"'{rule.pattern}' takes '{name}', but {kind.__name__} reads the weight of its "
                f"'{child}' without calling it, so that it would stay in full precision; leave it "
                f"out: put a rule for '{name}' without weights first, or narrow the pattern"
            )


def _quantized(name: str, linear: nn.Linear, rule: Rule) -> QuantLinear | None:
    if rule.weights is None:
        return None
    try:
        for spec in (rule.weights, rule.inputs):
            if spec is not None:
                spec.grid.groups(linear.in_features)
    except ValueError as error:
        raise UserError(f"'{rule.pattern}' takes '{name}', but {error}") from None
    return QuantLinear(linear, rule.weights, rule.inputs)


def restore(model: nn.Module) -> None:
    """Put plain linear layers, with the teacher's weights, in the place of all quantized ones.

    Raises:
        RuntimeError: a layer was loaded from codes.
    """
    found = model.named_modules(remove_duplicate=False)
    layers = {name: m for name, m in found if isinstance(m, QuantLinear)}
    for name, layer in layers.items():
        if layer.adopted:
            raise RuntimeError(f"'{name}' was loaded from codes: its weight is not known")
    made: dict[QuantLinear, nn.Linear] = {}
    for name, layer in layers.items():
        if layer not in made:
            made[layer] = _linear(layer)
        replace(model, name, made[layer])


def _linear(layer: QuantLinear) -> nn.Linear:
    linear = nn.Linear(
        layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
    )
    linear.weight = nn.Parameter(layer.weight.detach())
    if layer.bias is not None:
        linear.bias = nn.Parameter(layer.bias.detach())
    return linear.train(layer.training)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the submodule `name`.

    Raises:
        ValueError: `name` is "", the model itself.
    """
    if not name:
        raise ValueError("the model is itself a linear layer; wrap it before it is swapped")
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent).register_module(child, module)
