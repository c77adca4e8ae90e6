"""The networks of SDKD: built from a config, or loaded from a stage's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from torch import Tensor, nn

from pipelines.sdkd.nets import students, teachers
from pipelines.sdkd.nets.frame import (
    Forecaster,
    Hybrid,
    MixerNumbers,
    ResNetNumbers,
    Shape,
    Teacher,
    UNetNumbers,
)
from stages.core import params as core
from stages.core.errors import UserError

TeacherNet = Annotated[Hybrid | Teacher, Field(discriminator="net")]
StudentNet = Annotated[UNetNumbers | ResNetNumbers | MixerNumbers, Field(discriminator="net")]

NETS: dict[str, Any] = {
    "alternet": teachers.AlterNet,
    "simvp": teachers.SimVP,
    "unet": students.UNet,
    "resnet": students.ResNet,
    "mixer": students.Mixer,
}
_NUMBERS: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        Hybrid | Teacher | UNetNumbers | ResNetNumbers | MixerNumbers, Field(discriminator="net")
    ]
)


def config(numbers: core.Params, shape: Shape) -> dict[str, Any]:
    """What `build` makes a network from: its numbers, and what it must know of the data."""
    return {**numbers.model_dump(), "shape": shape.model_dump()}


def build(config: Mapping[str, Any]) -> Forecaster:
    """Build a network with fresh weights (from torch's global generator).

    Args:
        config: `net` (one of `NETS`), that network's numbers (see `nets/frame.py`), and `shape`:
            history, horizon, channels, height, width of the data.

    Returns:
        A network from (B, T, C, H, W) to (forecast (B, T', C, H, W), latent maps (B, K, h, w)).

    Raises:
        pydantic.ValidationError: a number is missing, unknown or out of range.
        UserError: the grid cannot be halved, or cut into patches, as often as the network does.
    """
    numbers = _NUMBERS.validate_python({k: v for k, v in config.items() if k != "shape"})
    shape = Shape.model_validate(config["shape"])
    step = coarsening(numbers)
    if shape.height % step or shape.width % step:
        raise UserError(
            f"params.yaml: a {numbers.net} of these numbers needs grids whose sides divide by "
            f"{step}; the data's is {shape.height}x{shape.width}"
        )
    net: Forecaster = NETS[numbers.net](shape, numbers)
    net.config = {**numbers.model_dump(), "shape": shape.model_dump()}
    return net


class Deployed(nn.Module):
    """A network as it is used: frames in, forecast out."""

    def __init__(self, net: Forecaster) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        forecast, _ = self.net(x)
        return forecast


def coarsening(numbers: Teacher | UNetNumbers | ResNetNumbers | MixerNumbers) -> int:
    """By how much the latent grid is coarser than the data's."""
    if isinstance(numbers, Teacher):
        return 2 ** (numbers.layers_s // 2)
    if isinstance(numbers, UNetNumbers):
        return 2**numbers.depth
    return numbers.patch if isinstance(numbers, MixerNumbers) else 1


def load(folder: Path, weights: str = "model.safetensors") -> Forecaster:
    """Load a network from `config.json` and a weights file in one folder, in eval mode.

    Raises:
        FileNotFoundError: a file is missing.
        RuntimeError: the weights do not fit the config.
    """
    from safetensors.torch import load_file

    net = build(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    net.load_state_dict(load_file(folder / weights), strict=True)
    return net.eval()
