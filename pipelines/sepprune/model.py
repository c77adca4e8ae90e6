"""The separators of SepPrune: built from a config, or loaded from a stage's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.sepprune.separators.afrcnn import AFRCNN
from pipelines.sepprune.separators.frame import Separator
from pipelines.sepprune.separators.sudormrf import SuDoRMRF
from pipelines.sepprune.separators.tdanet import TDANet

SEPARATORS: dict[str, type[Separator]] = {"sudormrf": SuDoRMRF, "afrcnn": AFRCNN, "tdanet": TDANet}


def build(config: Mapping[str, Any]) -> Separator:
    """Builds a separator with fresh weights (from torch's global generator).

    Args:
        config: `name` (one of `SEPARATORS`) and that network's numbers: voices, basis, kernel,
            stride (samples), bottleneck, hidden, depth, and blocks (sudormrf) or iterations
            (afrcnn, tdanet); tdanet also ffn, heads, attention_axis. `widths`, if there, gives
            the channel groups that were cut.

    Raises:
        KeyError: A number is missing, or the name is unknown.
    """
    return SEPARATORS[config["name"]](config)


def load(folder: Path, weights: str = "model.safetensors") -> Separator:
    """Loads a separator from `config.json` and a weights file in one folder, in eval mode.

    Raises:
        FileNotFoundError: A file is missing.
        RuntimeError: The weights do not fit the config.
    """
    from safetensors.torch import load_file

    model = build(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model.load_state_dict(load_file(folder / weights), strict=True)
    return model.eval()
