"""What the other stages see of the fields: windows, batches, scale."""

import pytest
import torch
from safetensors.torch import save_file

from pipelines.sdkd.data import MANIFEST, Fields
from stages.core.errors import UserError
from stages.core.files import write_json

HISTORY, HORIZON = 3, 2


def write(folder, frames=5, stride=1, counts=(7, 2, 3)):
    """Fields whose value is 1000 trajectory + frame, so that windows can be told."""
    folder.mkdir()
    for split, count in zip(("train", "valid", "test"), counts, strict=True):
        value = 1000.0 * torch.arange(count)[:, None] + torch.arange(frames)
        fields = value[:, :, None, None, None].expand(count, frames, 2, 4, 6).contiguous()
        save_file({"fields": fields}, folder / f"{split}.safetensors")
    manifest = {
        "dataset": "numbers", "history": HISTORY, "horizon": HORIZON, "channels": 2,
        "size": [4, 6], "mean": [100.0, 200.0], "std": [50.0, 25.0], "low": -1.0, "high": 9.0,
        "unit": "m", "stride": stride,
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return Fields.load(folder)


@pytest.fixture
def fields(tmp_path):
    return write(tmp_path / "one")


@pytest.fixture
def long(tmp_path):
    return write(tmp_path / "long", frames=11, stride=3)


def numbers(values, fields):
    return fields.raw(values)[:, :, 0, 0, 0].round().long().tolist()


def test_one_window_a_trajectory(fields):
    ids, x, y = fields.fixed("test")
    assert ids == ["test-0000", "test-0001", "test-0002"]
    assert x.shape == (3, HISTORY, 2, 4, 6) and y.shape == (3, HORIZON, 2, 4, 6)
    assert numbers(x, fields)[2] == [2000, 2001, 2002]
    assert numbers(y, fields)[2] == [2003, 2004]
    assert [fields.count(s) for s in ("train", "valid", "test")] == [7, 2, 3]
    assert fields.size == (4, 6) and fields.channels == 2


def test_long_trajectories_are_cut_into_windows(long):
    ids, x, y = long.fixed("valid")
    assert ids == [f"valid-000{n}@00000{t}" for n in (0, 1) for t in (0, 3, 6)]
    assert numbers(x, long)[4] == [1003, 1004, 1005] and numbers(y, long)[5] == [1009, 1010]
    assert long.count("train") == 21


def test_values_are_normalised_and_back(fields):
    _, x, _ = fields.fixed("test")
    assert float(x[0, 1, 0, 0, 0]) == pytest.approx((1 - 100) / 50)
    assert float(x[0, 1, 1, 0, 0]) == pytest.approx((1 - 200) / 25)
    assert float(fields.raw(x)[0, 1, 0, 0, 0]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("which", ["fields", "long"])
def test_a_batch_is_what_its_index_says(which, request):
    fields = request.getfixturevalue(which)
    _, xs, ys = fields.fixed("train")
    x, y, index = fields.batch(4, 2, 3)
    assert index.dtype == torch.int64 and index.shape == (3,)
    assert torch.equal(x, xs[index]) and torch.equal(y, ys[index])


def test_an_epoch_shows_each_window_once_in_a_new_order(fields):
    size, count = 3, 7
    seen = torch.cat([fields.batch(0, step, size)[2] for step in range(1, 1 + count)])
    epochs = seen.view(size, count)  # 7 batches of 3 are 3 epochs of 7, batches run across
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(count))
    assert not torch.equal(epochs[0], epochs[1])


def test_a_batch_may_be_larger_than_the_set(fields):
    index = fields.batch(1, 2, 20)[2]
    order = torch.cat([fields.batch(1, step, 4)[2] for step in range(1, 12)])
    assert torch.equal(index, order[20:40])


def test_batches_are_a_pure_function_of_seed_and_step(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    for step in (5, 1, 9):
        torch.manual_seed(step)
        two.batch(3, 100 - step, 2)  # what came before must not matter
        for a, b in zip(one.batch(3, step, 2), two.batch(3, step, 2), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one.batch(3, 1, 7)[2], one.batch(4, 1, 7)[2])


def test_what_is_not_there_is_told(fields, tmp_path):
    with pytest.raises(UserError, match="no split 'exam'; it has train, valid, test"):
        fields.fixed("exam")
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        Fields.load(tmp_path)
