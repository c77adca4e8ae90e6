"""The calibrate stage: what it counts, what it chooses, what budget it sets, what it leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.sepprune import calibrate
from pipelines.sepprune.model import build
from stages.calibrate.structure import count, structure
from stages.core.errors import UserError
from stages.core.job import Job
from stages.core.seeding import seed_of
from tests.pipelines.sepprune.published import CONFIGS, RATE
from tests.pipelines.sepprune.test_model import SMALL

VALUES: dict[str, Any] = {
    "seed": 3,
    "batches": 2,
    "batch_size": 3,
    "heavy": 0.9,
    "budget": {"parameters": {"sudormrf": 0.8, "afrcnn": 0.8, "tdanet": 0.95}},
}


class Sound:
    """Stands in for prepared speech: noise, a pure function of (seed, step)."""

    rate = 400

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        sources = torch.randn(size, 2, self.rate, generator=generator)
        return sources.sum(1), sources


def params(**change: Any) -> calibrate.Params:
    return calibrate.Params.model_validate(VALUES | change)


@pytest.fixture
def made(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stage's output for three tiny teachers."""
    monkeypatch.setattr(calibrate.Speech, "load", lambda folder: Sound())
    for name, config in SMALL.items():
        folder = tmp_path / "teach" / name
        folder.mkdir(parents=True)
        save_file(build(config).state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    out.mkdir()
    inputs = {"prepare": tmp_path, "teach": tmp_path / "teach"}
    calibrate.run(params(), inputs, out, job)  # type: ignore[arg-type]
    return out


def test_what_it_leaves(made: Path) -> None:
    files = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert files == {
        "batches.safetensors", "exhibits.json", "pictures/structure.dark.svg",
        "pictures/structure.svg", "pruned_layers.csv", "structure.csv", "targets.json",
    }  # fmt: skip
    tensors = load_file(made / "batches.safetensors")
    assert tensors["mix"].shape == (6, 400)
    torch.testing.assert_close(tensors["sources"].sum(1), tensors["mix"])
    with (made / "structure.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, config in SMALL.items():
        own = [row for row in rows if row["backbone"] == name]
        sums = [sum(int(row[key]) for row in own) for key in ("macs", "parameters")]
        assert sums == list(count(build(config), torch.zeros(1, Sound.rate)))


def test_the_budget_is_the_share_of_the_dense_parameters(made: Path) -> None:
    targets = json.loads((made / "targets.json").read_text())
    for name, target in targets.items():
        net = build(SMALL[name])
        assert target["groups"] == [group.name for group in net.groups()]
        assert target["dense_parameters"] == sum(p.numel() for p in net.parameters())
        share = VALUES["budget"]["parameters"][name]
        whole = round(share * target["dense_parameters"])
        assert target["fixed_parameters"] + target["budget"] == whole
        costs = sum(c["channels"] * c["parameters_per_channel"] for c in target["candidates"])
        assert target["fixed_parameters"] + costs == target["dense_parameters"]
        assert target["keep_share"] == pytest.approx(target["budget"] / costs, abs=1e-6)


@pytest.mark.parametrize("name", ["sudormrf", "afrcnn", "tdanet"])
def test_on_the_published_nets_the_rule_picks_what_the_paper_prunes(name: str) -> None:
    with torch.device("meta"):
        net = build(CONFIGS[name])
    table = structure(net, torch.zeros(1, RATE, device="meta"))
    target = calibrate.target(params(), name, net, table)
    assert target["groups"] == [group.name for group in net.groups()]
    reasons = {candidate["name"]: candidate["reason"] for candidate in target["candidates"]}
    if name == "afrcnn":  # 35.9 % of all MACs in the 16-iteration dump of the paper
        last = reasons[target["groups"][3]]
        assert "read by sm.blocks.last_layer.conv: 38.0% of" in last
        assert "made by" not in last


def test_a_light_layer_is_not_pruned() -> None:
    net = build(SMALL["sudormrf"])
    table = structure(net, torch.zeros(1, 400))
    table.loc[table["module"].isin(["sm.1.proj_1x1.conv", "sm.1.res_conv"]), "macs"] = 1
    budget = {"parameters": {"sudormrf": 0.9}}
    target = calibrate.target(params(budget=budget), "sudormrf", net, table)
    assert target["groups"] == ["sm.0.proj_1x1"]
    assert [candidate["chosen"] for candidate in target["candidates"]] == [True, False]


@pytest.mark.parametrize(
    ("budget", "said"), [({"afrcnn": 0.5}, "is missing"), ({"sudormrf": 0.2}, "allowed: above")]
)
def test_a_budget_that_cannot_be_met_is_an_error(budget: dict[str, float], said: str) -> None:
    net = build(SMALL["sudormrf"])
    table = structure(net, torch.zeros(1, 400))
    with pytest.raises(UserError, match=f"budget.parameters.sudormrf.*{said}"):
        calibrate.target(params(budget={"parameters": budget}), "sudormrf", net, table)
