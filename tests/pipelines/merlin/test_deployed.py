"""Which model of an arm answers, and what it is fed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.merlin.deployed import Deployed, nearest
from pipelines.merlin.impute import inputs
from pipelines.merlin.model import build
from stages.core.files import write_json
from tests.pipelines.merlin.made import VIEWS, config
from tests.pipelines.merlin.test_impute import window
from tests.pipelines.merlin.test_model import example


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("mcar-75", "mcar-75"),
        ("complete", "mcar-25"),
        ("mcar-10", "mcar-25"),
        ("mcar-60", "mcar-50"),
        ("mcar-80", "mcar-75"),
        ("mcar-95", "mcar-90"),
        ("block-50", "mcar-50"),
        ("changing", "mcar-50"),
    ],
)
def test_the_model_of_the_nearest_rate_answers(key: str, model: str) -> None:
    assert nearest(key, VIEWS) == nearest(key, VIEWS[::-1]) == model
    assert nearest(key, ["all"]) == "all"


def test_an_arm_is_fed_as_it_was_trained(tmp_path: Path) -> None:
    x = example(3)[0]
    there = torch.rand(x.shape) > 0.5
    batch = window(x)
    for kind in ("zeros", "mask", "linear"):
        torch.manual_seed(0)
        model = build(config("stid", mask=kind == "mask")).eval()
        folder = tmp_path / kind
        folder.mkdir()
        write_json(folder / "config.json", model.config)
        save_file(model.state_dict(), folder / "model.safetensors")
        about = {"arm": {"input": kind}, "models": {"all": {"file": "model.safetensors"}}}
        write_json(folder / "training.json", about)
        y, hidden = Deployed.load(folder).forecast(batch, there, "mcar-50")
        wanted = model(inputs(kind, batch, there), batch.tod, batch.dow)
        assert torch.equal(y, wanted[0]) and torch.equal(hidden, wanted[1])
        assert not y.requires_grad


def test_a_teacher_puts_zeros_in_a_hole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(config("stid")).eval()
    write_json(tmp_path / "config.json", model.config)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    write_json(tmp_path / "training.json", {"steps": 3, "best_step": 2, "valid_loss": 0.5})
    deployed = Deployed.load(tmp_path)
    assert deployed.input == "zeros" and list(deployed.models) == ["all"]
    assert not deployed.model("mcar-25").training
