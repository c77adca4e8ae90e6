"""A small teacher with joint attention whose blocks do something, and its stages' inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.foundations.video import teacher as foundation
from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.model import build
from pipelines.foundations.video.teacher import Teacher
from pipelines.foundations.video.text import Text, Words
from pipelines.s2q_vdit import attention
from pipelines.s2q_vdit.base import Base
from pipelines.s2q_vdit.blocks import Course, Given
from pipelines.s2q_vdit.nets import block_names, layout, of_text, video_first
from pipelines.s2q_vdit.plan import Layers, prepare
from stages.core.files import write_json
from stages.quantize.capture import capture
from tests.pipelines.foundations.video import small

VIDEO, TEXT = small.FRAMES * (small.SIDE // 4) ** 2, 3
"""Tokens of a clip and of a prompt, start token included."""

BASES: dict[str, dict[str, Any]] = {
    "full": {
        "rotation": "learned", "scale": "learned", "alpha": 0.5, "clip": "learned",
        "rounding": "gptq",
    },
    "nearest": {},
    "rotated": {"rotation": "hadamard"},
    "smooth": {"scale": "smooth", "alpha": 0.5},
    "balanced": {"scale": "balanced", "clip": "learned"},
    "static": {"rotation": "hadamard", "scale": "smooth", "alpha": 0.5},
    "groups": {"group": 8, "rounding": "gptq"},
}  # fmt: skip
NOTHING = {"rotation": "none", "scale": "none", "alpha": None, "clip": "max", "group": None}
COURSE = {
    "epochs": 4, "batch": 2, "look": 4, "transform": 0.005, "clip": 0.05, "weight_decay": 0.0,
    "final": 0.001, "norm": None, "damping": 0.01, "act_order": False,
}  # fmt: skip


def base(name: str) -> Base:
    return Base.model_validate(raw_base(name))


def raw_base(name: str) -> dict[str, Any]:
    return NOTHING | {"rounding": "nearest"} | BASES[name]


def course(**changes: Any) -> Course:
    return Course.model_validate(COURSE | changes)


def denoiser(layers: int = 2, seed: int = 0) -> Denoiser:
    """Fresh networks start as the identity; here every layer has weights of its own."""
    torch.manual_seed(seed)
    net = build(small.numbers("cogvideox", layers=layers), small.shape())
    loud(net)
    return net.eval().requires_grad_(False)


def loud(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)


def teacher(layers: int = 2) -> Teacher:
    words = Words.fresh(len(small.WORDS), 8, 0)

    def read(prompts: Tensor) -> tuple[Text, Text]:
        return words.encode(prompts), words.encode(torch.zeros_like(prompts))

    return Teacher(
        denoiser=denoiser(layers),
        noising=small.scheduler(),
        read=read,
        shape=(small.FRAMES, 1, small.SIDE, small.SIDE),
        decode=lambda x: x.clamp(-1, 1),
        about={},
    )


def inputs(root: Path, steps: int = 5, guidance: float = 2.0) -> dict[str, Path]:
    """Folders of the foundation's stages, made for tests."""
    made = teacher()
    words = Words.fresh(len(small.WORDS), 8, 0)
    folder = root / "teach"
    foundation.keep(folder, made.denoiser, made.noising, words, {"shape": list(made.shape)})
    gate = root / "gate"
    gate.mkdir(parents=True)
    write_json(gate / "gate.json", {"sampling": {"steps": steps, "guidance": guidance}})
    return {
        "foundations/video/prepare": small.prepared(root / "clips"),
        "foundations/video/teach/cogvideox": folder,
        "foundations/video/gate/cogvideox": gate,
    }


def observed(net: Denoiser, rows: int = 6, place: int = 0, steps: int = 3) -> tuple[str, Given]:
    """A block and what was seen of it on random rows."""
    name = block_names(net)[place]
    x = small.drawn(rows, small.FRAMES, 1, small.SIDE, small.SIDE, seed=7)
    words = Words.fresh(len(small.WORDS), 8, 0).encode(torch.tensor([[2, 4], [3, 5]] * rows)[:rows])
    t = torch.arange(rows) % steps * 30
    with (
        capture(net, [name], shared=layout(net).shared) as records,
        attention.watching({name: net.get_submodule(f"{name}.attn1")}) as sums,
        torch.no_grad(),
    ):
        net(x, t, words)
    found = records[name]
    text = of_text(found.outputs[0])
    assert text is not None
    received = video_first(torch.cat(sums[name]), text.shape[1], True)
    return name, Given(found, received, (t // 30).tolist())


def swapped(net: Denoiser, own: Base, bits: str = "W4A4") -> Denoiser:
    """The same network with quantized layers, in place."""
    prepare(net, [Layers(pattern="*", inputs=True)], own, bits)
    return net
