"""What params.yaml may say of each network: closed, so that a slip is found before any run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from stages.core.params import Params

Count = Annotated[int, Field(ge=1)]
Backbone = Literal["stid", "tsmixer", "dsformer"]


class Network(Params):
    """What all three share."""

    dropout: Annotated[float, Field(ge=0, lt=1)]


class STID(Network):
    """Widths of the history's map and of the three identities; residual layers."""

    embed: Count
    node: Count
    day: Count
    week: Count
    layers: Count


class TSMixer(Network):
    """Blocks, and the width of their map over sensors."""

    blocks: Count
    inner: Count


class DSformer(Network):
    """Sub-series that a history is cut into, heads of attention, encoder layers."""

    samples: Count
    heads: Count
    layers: Count


CONFIGS: dict[str, type[Network]] = {"stid": STID, "tsmixer": TSMixer, "dsformer": DSformer}


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
