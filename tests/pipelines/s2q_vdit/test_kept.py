"""A quantized network comes back from packed integers as it was."""

from pathlib import Path

import pytest
import torch

from pipelines.foundations.video.text import Words
from pipelines.s2q_vdit import kept
from pipelines.s2q_vdit.base import attach
from stages.core.errors import UserError
from stages.quantize.layers import fix_all, quantized
from tests.pipelines.foundations.video.small import FRAMES, SIDE, drawn
from tests.pipelines.s2q_vdit import small


@pytest.mark.parametrize("name", small.BASES)
def test_what_was_kept_predicts_the_same(tmp_path: Path, name: str) -> None:
    own = small.base(name)
    made = small.swapped(small.denoiser(1), own, "W3A6")
    layers = quantized(made)
    three = [key for key in layers if key.endswith(("to_q", "to_k", "to_v"))]
    groups = [three, *([key] for key in layers if key not in three)]
    rand = {key: torch.rand(2, layer.in_features) for key, layer in layers.items()}
    attach(layers, groups, own, lambda: rand, 0)
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * drawn(*parameter.shape)
    fix_all(made)
    size = kept.keep(tmp_path, made, own)
    assert (tmp_path / kept.MODEL).stat().st_size == size
    teacher = small.denoiser(1)
    again = kept.load(tmp_path, teacher)
    x, t = drawn(2, FRAMES, 1, SIDE, SIDE), torch.tensor([10, 900])
    text = Words.fresh(6, 8, 0).encode(torch.tensor([[2, 4], [3, 5]]))
    with torch.no_grad():
        assert torch.equal(again(x, t, text), made(x, t, text))
    first, *others = (quantized(again)[key] for key in three)
    assert first.inputs is not None
    assert all(o.transform is first.transform and o.inputs is first.inputs for o in others)
    assert not quantized(teacher), "the teacher stays as it is"
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no quantized model"):
        kept.load(tmp_path, small.denoiser(1))
