"""What stands in front of a quantized layer and beside it, by arm; made anew, or to be filled."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.places import place_of, temporal_attention
from pipelines.q_vdit.released import Doubled
from pipelines.q_vdit.tqe import TokenAware
from stages.core.errors import UserError
from stages.core.seeding import seed_of
from stages.quantize.layers import QuantLinear, quantized
from stages.quantize.lowrank import Beside, Inner, put_beside
from stages.quantize.smooth import ChannelMaximum, balance_scales, smooth_scales
from stages.quantize.store import Make
from stages.quantize.transforms import Chain, Diagonal, Rotation


def attach(
    model: nn.Module,
    arm: Arm,
    salience: Mapping[str, Tensor],
    *,
    momentum: float,
    frames: int,
    seed: int,
) -> None:
    """Give every quantized layer of `model` its transform and branches, and calibrate it.

    Args:
        salience: layer -> max|X_j| at each calibration step, (steps, in).
        momentum: of the running mean over steps that SmoothQuant's statistic is here.
        frames: T.

    Raises:
        UserError: a rank does not suit a layer.
    """
    for name, layer in quantized(model).items():
        device, size = layer.weight.device, layer.in_features
        scale = channel_scale(arm, salience[name].to(device), layer.weight, momentum)
        transform = _transform(arm, scale, _generator("rotation", name, seed), size)
        layer.transform = None if transform is None else transform.to(device)
        try:
            _branches(arm, name, layer, frames, seed)
        except ValueError as error:
            raise UserError(f"q_vdit: '{name}' cannot have this arm's branch: {error}") from None


def channel_scale(arm: Arm, salience: Tensor, weight: Tensor, momentum: float) -> Tensor | None:
    """c of the arm's diagonal scaling for one layer, (in,); None where it has none.

    Args:
        salience: (steps, in), in the order of the walk.
        weight: (out, in).
    """
    if arm.scale == "balanced":
        return balance_scales(salience, weight)
    if arm.scale == "none":
        return None
    top = ChannelMaximum(momentum)
    for row in salience:
        top.add(row[None])
    assert top.value is not None and arm.alpha is not None
    return smooth_scales(top.value, weight, arm.alpha)


def make(arm: Arm, frames: int) -> Make:
    """For `stages.quantize.store.load`: transforms and branches of the right shapes."""

    def build(name: str, part: str, inputs: int, outputs: int) -> nn.Module:
        generator = _generator("rotation", name, 0)
        if part == "transform":
            scale = None if arm.scale == "none" else torch.ones(inputs)
            found = _transform(arm, scale, generator, inputs)
        elif arm.beside == "svd":
            assert arm.rank is not None
            found = Beside(torch.zeros(outputs, arm.rank), torch.zeros(arm.rank, inputs))
        else:
            found = estimator(arm, name, inputs, outputs, frames, generator)
        assert found is not None
        return found

    return build


def estimator(
    arm: Arm, name: str, inputs: int, outputs: int, frames: int, generator: torch.Generator
) -> TokenAware:
    """The token-aware branch of a layer, by the arm's gain and by where the layer sees frames."""
    place = place_of(name)
    doubled = arm.gain == "doubled" and temporal_attention(name)
    gained = doubled or (arm.gain == "measured" and place != "nowhere")
    return (Doubled if doubled else TokenAware)(
        inputs, outputs, frames=frames if gained else None, place=place, generator=generator
    )


def _branches(arm: Arm, name: str, layer: QuantLinear, frames: int, seed: int) -> None:
    inputs, outputs, device = layer.in_features, layer.out_features, layer.weight.device
    if arm.beside == "svd":
        assert arm.rank is not None
        put_beside(layer, arm.rank)
        return
    if arm.inner is not None:
        generator = _generator("inner", name, seed)
        layer.inner = Inner(outputs, inputs, arm.inner, generator).to(device)
    if arm.beside == "token":
        generator = _generator("token", name, seed)
        layer.beside = estimator(arm, name, inputs, outputs, frames, generator).to(device)
    layer.calibrate()


def _transform(
    arm: Arm, scale: Tensor | None, generator: torch.Generator, size: int
) -> nn.Module | None:
    """Scale first, then rotate: what is spread over all channels is then already balanced."""
    found: list[nn.Module] = []
    if scale is not None:
        found.append(Diagonal(scale, learned=False))
    if arm.rotated:
        found.append(Rotation.hadamard(size, generator))
    if len(found) > 1:
        return Chain(found)
    return found[0] if found else None


def _generator(what: str, name: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of("q_vdit", what, name, seed))
