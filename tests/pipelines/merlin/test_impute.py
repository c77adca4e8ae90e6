"""What fills a hole, by hand and against NumPy's interpolation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.merlin.data import Series, Window
from pipelines.merlin.impute import Kind, inputs, means
from tests.pipelines.merlin import made


def window(x: Tensor, observed: Tensor | None = None) -> Window:
    there = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    zeros = torch.zeros(x.shape[:2], dtype=torch.int64)
    return Window(torch.where(there, x, 0.0), there, zeros, zeros, x, there)


def filled(kind: Kind, values: list[float], kept: list[int]) -> list[float]:
    x = torch.tensor(values)[None, :, None]
    return inputs(kind, window(x), torch.tensor(kept).bool()[None, :, None]).flatten().tolist()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("zeros", [0, 0, 3, 0, 0, 9, 0]),
        ("mean", [6, 6, 3, 6, 6, 9, 6]),
        ("last", [3, 3, 3, 3, 3, 9, 9]),
        ("linear", [3, 3, 3, 5, 7, 9, 9]),
    ],
)
def test_each_kind_by_hand(kind: Kind, expected: list[float]) -> None:
    values, kept = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 7.0], [0, 0, 1, 0, 0, 1, 0]
    assert filled(kind, values, kept) == pytest.approx(expected)
    assert filled(kind, values, [1] * 7) == pytest.approx(values)
    assert filled(kind, values, [0] * 7) == [0] * 7


def test_the_mask_channel_stands_beside_zeros() -> None:
    torch.manual_seed(0)
    x, kept = torch.randn(2, 6, 3), torch.rand(2, 6, 3) > 0.5
    both = inputs("mask", window(x), kept)
    assert torch.equal(both[..., 0], x * kept) and torch.equal(both[..., 1], kept.float())


@pytest.mark.parametrize("kind", ["zeros", "mask", "mean", "last", "linear"])
def test_nothing_hidden_leaks(kind: Kind) -> None:
    """Whether the experiment hides a value or the record lacks it, it has no say."""
    torch.manual_seed(1)
    x, kept, observed = torch.randn(3, 8, 4), torch.rand(3, 8, 4) > 0.5, torch.rand(3, 8, 4) > 0.2
    other = torch.where(kept & observed, x, torch.randn(3, 8, 4))
    first = inputs(kind, window(x, observed), kept)
    assert torch.equal(first, inputs(kind, window(other, observed), kept))
    swapped = inputs(kind, window(x, kept), observed)
    assert torch.equal(first, swapped)


def test_linear_agrees_with_numpy() -> None:
    torch.manual_seed(2)
    x, kept = torch.randn(4, 12, 3), torch.rand(4, 12, 3) > 0.6
    ours = inputs("linear", window(x), kept)
    for b in range(4):
        for n in range(3):
            here = np.flatnonzero(kept[b, :, n].numpy())
            expected = (
                np.interp(np.arange(12), here, x[b, here, n].numpy()) if len(here) else np.zeros(12)
            )
            assert ours[b, :, n].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("kind", ["mean", "last", "linear"])
def test_a_sensor_of_which_nothing_is_left_gets_its_mean(kind: Kind) -> None:
    x, kept = torch.ones(2, 4, 3), torch.ones(2, 4, 3).bool()
    kept[0, :, 1] = False
    rest = torch.tensor([5.0, 6.0, 7.0])
    filled = inputs(kind, window(x), kept, rest)
    assert filled[0, :, 1].tolist() == [6.0] * 4
    filled[0, :, 1] = 1
    assert torch.equal(filled, x)
    for plain in ("zeros", "mask"):
        assert torch.equal(inputs(plain, window(x), kept, rest), inputs(plain, window(x), kept))


def test_the_mean_is_that_of_training_in_normalised_units(tmp_path: Path) -> None:
    made.series(tmp_path / "prepare", tmp_path / "calibrate")
    series = Series.load(tmp_path / "prepare", "waves")
    assert means(series).tolist() == [0.0] * made.SENSORS
    for sensor in series.manifest["sensors"]:
        sensor["mean"] = 13.0
    assert means(series).tolist() == [1.0] * made.SENSORS
