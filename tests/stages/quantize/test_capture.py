"""What is kept of a run, by sample, and put together again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.core.errors import UserError
from stages.quantize.capture import ROOT, capture, watching

CPU = torch.device("cpu")
FRAMES = 3


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """Two streams in and out, a mask by keyword, a table that all samples share; works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 4)

    def forward(
        self, x: Tensor, text: Tensor, *, mask: Tensor, table: tuple[Tensor, Tensor], scale: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x += self.line(x) * mask[:, None, None] * table[0]
        return x, {"text": text * scale}


class Model(nn.Module):
    """Folds frames into the first axis, as factorised attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        x = x.flatten(0, 1).clone()
        table = (torch.ones(5, 4), torch.zeros(2))
        mask = mask.repeat_interleave(FRAMES)
        for block in self.blocks:
            x, found = block(x, text, mask=mask, table=table, scale=2.0)
            text = found["text"]
        return x


def given(count: int, seed: int = 0) -> dict[str, Tensor]:
    x, text = noise(count, FRAMES, 5, 4, seed=seed), noise(count, 2, 4, seed=seed + 1)
    return {"x": x, "text": text, "mask": torch.arange(1.0, count + 1)}


def run(model: nn.Module, *calls: dict[str, Tensor], names: tuple[str, ...] = ("blocks.1",)) -> Any:
    with torch.no_grad(), capture(model, names, shared=("table",)) as found:
        for call in calls:
            model(**call)
    return found


@pytest.mark.parametrize("samples", [[0], [2, 0], [4, 1, 3]])
def test_a_batch_of_what_was_kept_gives_what_was_kept(samples: list[int]) -> None:
    model = Model()
    records = run(model, given(2), given(3, seed=7))["blocks.1"]
    assert len(records) == 5
    call, output = records.batch(samples, CPU)
    assert call.args[0].shape == (FRAMES * len(samples), 5, 4)
    x, found = call.call(model.blocks[1])
    torch.testing.assert_close(x, output[0])
    torch.testing.assert_close(found["text"], output[1]["text"])


def test_a_samples_share_is_its_own_run() -> None:
    model, both = Model(), given(2)
    together = run(model, both)["blocks.1"]
    alone = run(model, {key: value[1:] for key, value in both.items()})["blocks.1"]
    for mine, wanted in zip(together.batch([1], CPU), alone.batch([0], CPU), strict=True):
        if isinstance(mine, tuple):
            torch.testing.assert_close(mine[0], wanted[0])
        else:
            torch.testing.assert_close(mine.args[0], wanted.args[0])
            assert torch.equal(mine.kwargs["mask"], torch.full((FRAMES,), 2.0))
            assert mine.kwargs["scale"] == 2.0


def test_a_block_that_works_in_place_does_not_change_what_was_kept() -> None:
    model, call = Model(), given(2)
    found = run(model, call, names=("blocks.0", "blocks.1"))
    before = found["blocks.0"].inputs[0].args[0]
    assert torch.equal(before, call["x"][0])
    once = found["blocks.0"].outputs[0][0].clone()
    inputs, _ = found["blocks.0"].batch([0], CPU)
    inputs.call(model.blocks[0])
    assert torch.equal(found["blocks.0"].outputs[0][0], once)
    torch.testing.assert_close(found["blocks.1"].inputs[0].args[0], once)


def test_arguments_of_a_batch_of_one_are_copies_too() -> None:
    """A block that works in place, asked twice, must give the same twice."""
    model = Model()
    records = run(model, given(1))["blocks.1"]
    first = records.batch([0], CPU)[0].call(model.blocks[1])[0]
    again = records.batch([0], CPU)[0].call(model.blocks[1])[0]
    assert torch.equal(first, again)


def test_the_model_itself_is_the_module_without_a_name() -> None:
    model, call = Model(), given(4)
    records = run(model, call, names=(ROOT,))[ROOT]
    inputs, output = records.batch([3, 1], CPU)
    assert torch.equal(inputs.kwargs["mask"], call["mask"][[3, 1]])
    torch.testing.assert_close(inputs.call(model), output)


def test_nothing_is_kept_afterwards_and_no_gradient_hangs_on_it() -> None:
    model = Model()
    with capture(model, ["blocks.0"], shared=("table",)) as found:
        model(**given(2))
    model(**given(2))
    records = found["blocks.0"]
    assert len(records) == 2
    assert not records.outputs[0][0].requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_shared_out_is_refused() -> None:
    model = Model()
    wanted = "argument 'table' has 5 rows for 2 samples; .*'shared'"
    with pytest.raises(ValueError, match=wanted), capture(model, ["blocks.0"]):
        model(**given(2))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_samples_that_differ_in_a_plain_argument_cannot_be_joined() -> None:
    block = Block()
    with capture(block, [ROOT], shared=("table",)) as found:
        for scale in (1.0, 2.0):
            block(
                noise(1, 5, 4), noise(1, 2, 4), mask=torch.ones(1),
                table=(torch.ones(5, 4), torch.zeros(2)), scale=scale,
            )  # fmt: skip
        records = found[ROOT]
    assert records.batch([1], CPU)[0].kwargs["scale"] == 2.0
    with pytest.raises(ValueError, match="'scale' differs between samples"):
        records.batch([0, 1], CPU)


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with (
        pytest.raises(UserError, match=r"no module 'block\.1'.*blocks\.1"),
        capture(Model(), ["block.1"]),
    ):
        pass


def test_a_call_without_a_tensor_has_no_samples() -> None:
    class Still(nn.Module):
        def forward(self, step: int) -> int:
            return step

    model = Still()
    with pytest.raises(ValueError, match="without a tensor"), capture(model, [ROOT]):
        model(3)


def test_watching_sees_every_call_of_a_module() -> None:
    model, seen = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), []
    with watching({"last": model[1]}, lambda name, x: seen.append((name, x))):
        outputs = [model[0](noise(2, 3, seed=s)) for s in (0, 1)]
        for s in (0, 1):
            model(noise(2, 3, seed=s))
    model(noise(2, 3))
    assert [name for name, _ in seen] == ["last", "last"]
    for (_, x), wanted in zip(seen, outputs, strict=True):
        assert torch.equal(x, wanted) and not x.requires_grad
