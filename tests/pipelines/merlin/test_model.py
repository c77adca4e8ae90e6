"""The three forecasters: published sizes, what they look at, what they leave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipelines.merlin.model import NETS, Published, build, load, without_head
from pipelines.merlin.nets.stid import STID
from stages.core.files import write_json
from tests.pipelines.merlin.made import HISTORY, HORIZON, SENSORS, config

PEMS04 = {
    "name": "stid", "sensors": 307, "history": 12, "horizon": 12, "steps_per_day": 288,
    "mask": False, "code": 16, "embed": 64, "node": 64, "day": 64, "week": 64, "layers": 3,
    "dropout": 0.15,
}  # fmt: skip


def example(batch: int = 3, mask: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, HISTORY, SENSORS, 2) if mask else (batch, HISTORY, SENSORS)
    tod = torch.randint(24, (batch, HISTORY), generator=generator)
    dow = torch.randint(7, (batch, HISTORY), generator=generator)
    return torch.randn(shape, generator=generator), tod, dow


def test_the_student_of_pems04_has_the_published_parameters() -> None:
    model = build(PEMS04)
    body = model.body
    counts = {
        "node": body.node.numel(),
        "day": body.day.numel(),
        "week": body.week.numel(),
        "embed": sum(p.numel() for p in body.embed.parameters()),
        "encoder": sum(p.numel() for p in body.encoder.parameters()),
        "regression": sum(p.numel() for p in body.regression.parameters()),
        "head": sum(p.numel() for p in model.head.parameters()),  # type: ignore[union-attr]
    }
    assert counts == {
        "node": 19_648, "day": 18_432, "week": 448, "embed": 2_368, "encoder": 394_752,
        "regression": 3_084, "head": 1_257_488,
    }  # fmt: skip
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    kept, state = without_head(model.config, model.state_dict())
    without = build(kept)
    without.load_state_dict(state)
    assert sum(p.numel() for p in without.parameters()) == 438_732


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("mask", [False, True])
def test_shapes(name: str, mask: bool) -> None:
    torch.manual_seed(0)
    model = build(config(name, mask=mask, code=7)).eval()
    y, hidden, code = model(*example(3, mask))
    assert y.shape == (3, HORIZON, SENSORS)
    assert hidden.shape == (3, model.body.width, SENSORS)
    assert code is not None and code.shape == (3, 7)
    assert build(config(name, mask=mask))(*example(3, mask))[2] is None


@pytest.mark.parametrize("name", NETS)
def test_every_weight_learns(name: str) -> None:
    torch.manual_seed(0)
    model = build(config(name, code=7)).train()
    y, hidden, code = model(*example(16))
    assert code is not None
    (y.abs().sum() + hidden.square().sum() + code.square().sum()).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


@pytest.mark.parametrize("name", NETS)
def test_the_head_changes_nothing_but_itself(name: str) -> None:
    """Equal seeds give equal backbones with and without it, and forecasts never see it."""
    models = []
    for code in (0, 7):
        torch.manual_seed(5)
        models.append(build(config(name, code=code)).eval())
    plain, headed = models
    x = example(4)
    assert torch.equal(plain(*x)[0], headed(*x)[0]) and torch.equal(plain(*x)[1], headed(*x)[1])
    kept, state = without_head(headed.config, headed.state_dict())
    assert kept == plain.config and state.keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", NETS)
def test_windows_of_a_batch_do_not_meet(name: str) -> None:
    torch.manual_seed(0)
    model = build(config(name)).eval()
    x, tod, dow = example(6)
    together, alone = model(x, tod, dow)[0], model(x[2:3], tod[2:3], dow[2:3])[0]
    torch.testing.assert_close(together[2:3], alone)


def test_stid_looks_up_the_day_of_the_week_and_the_time_of_the_last_step() -> None:
    """The released code reads row 0 of the week whatever the day: every row must count here."""
    torch.manual_seed(0)
    net = STID(config("stid")).eval()
    x = torch.zeros(1, HISTORY, SENSORS)
    tod = torch.zeros(1, HISTORY, dtype=torch.int64)
    for table, size in ((net.week, 7), (net.day, 24)):
        for row in range(size):
            clock = torch.zeros(1, HISTORY, dtype=torch.int64)
            clock[:, -1] = row
            y = net(x, tod, clock)[0] if table is net.week else net(x, clock, tod)[0]
            (gradient,) = torch.autograd.grad(y.sum(), table)
            assert gradient.any(1).nonzero().flatten().tolist() == [row]


def test_stid_keeps_sensors_apart_and_the_others_do_not() -> None:
    for name in NETS:
        torch.manual_seed(0)
        model = build(config(name)).eval()
        x, tod, dow = example(1)
        changed = x.clone()
        changed[:, :, 0] += torch.randn(HISTORY)
        moved = (model(x, tod, dow)[0] - model(changed, tod, dow)[0]).abs().amax((0, 1)) > 1e-7
        assert bool(moved[0]) and bool(moved[1:].any()) == (name != "stid")


def test_the_published_layout_gives_the_same_forecast() -> None:
    for name, mask in (("stid", False), ("stid", True), ("dsformer", False)):
        torch.manual_seed(0)
        model = build(config(name, mask=mask)).eval()
        x, tod, dow = example(5, mask)
        values = x[..., 0] if mask else x
        clock = [(t / n)[..., None].expand(-1, -1, SENSORS) for t, n in ((tod, 24), (dow, 7))]
        channels = [values, *clock, *([x[..., 1]] if mask else [])]
        deployed = Published(model)
        assert deployed.channels == len(channels)
        assert torch.equal(deployed(torch.stack(channels, -1)), model(x, tod, dow)[0])
        noise = torch.randn(1, HISTORY, SENSORS, len(channels))  # as the runtime's timing feeds it
        assert deployed(noise).isfinite().all()


def test_a_folder_gives_the_net_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(config("tsmixer"))
    model.train()(*example(8))  # moves the batch norm's statistics
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", model.config)
    again = load(tmp_path)
    assert not again.training
    assert torch.equal(again(*example())[0], model.eval()(*example())[0])


def test_dsformer_puts_scale_and_level_back() -> None:
    """Its first step takes mean and deviation out of each sensor's history, its last one puts
    them back: with a history scaled and shifted the forecast is scaled and shifted too."""
    torch.manual_seed(0)
    model = build(config("dsformer")).eval()
    x, tod, dow = example(2)
    y, moved = model(x, tod, dow)[0], model(5 * x + 3, tod, dow)[0]
    torch.testing.assert_close(moved, 5 * y + 3, rtol=1e-3, atol=1e-3)
