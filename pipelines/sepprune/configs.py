"""What params.yaml may say of each network: closed, so that a slip is found before any run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from stages.core.params import Params

Count = Annotated[int, Field(ge=1)]


class Frame(Params):
    """What all three share: `kernel` and `stride` of the encoder in samples."""

    voices: Annotated[int, Field(ge=2)]
    basis: Count
    kernel: Annotated[int, Field(ge=2)]
    stride: Count
    bottleneck: Count
    hidden: Count
    depth: Annotated[int, Field(ge=2)]


class SuDoRMRF(Frame):
    blocks: Count


class AFRCNN(Frame):
    iterations: Count


class TDANet(Frame):
    iterations: Count
    ffn: Count
    heads: Count
    attention_axis: Literal["time", "batch"]


CONFIGS: dict[str, type[Frame]] = {"sudormrf": SuDoRMRF, "afrcnn": AFRCNN, "tdanet": TDANet}


def checked(backbones: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the configuration of every backbone.

    Raises:
        ValueError: an unknown network or key, a missing key, a wrong type or range.
    """
    for name, config in backbones.items():
        if name not in CONFIGS:
            raise ValueError(f"unknown backbone '{name}'; allowed: {', '.join(CONFIGS)}")
        try:
            CONFIGS[name].model_validate(dict(config))
        except ValidationError as error:
            lines = [f"{name}.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            allowed = ", ".join(CONFIGS[name].model_fields)
            raise ValueError(f"{'; '.join(lines)} (keys of {name}: {allowed})") from None
