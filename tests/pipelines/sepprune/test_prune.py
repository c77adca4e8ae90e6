"""The prune stage on tiny nets and made-up sound: every arm, its size, its updates, a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.sepprune import prune
from pipelines.sepprune.model import build, load
from stages.core import environment
from stages.core.dag import Node
from stages.core.job import Job
from stages.core.seeding import seed_of
from stages.prune.budget import channel_costs, prunable
from stages.teach import loop
from tests.jobs import for_tests
from tests.pipelines.sepprune.test_arms import CONFIGS

PARAMS: dict[str, Any] = {
    "search": {
        "steps": 4, "batch": 2, "lr": 0.1, "tau": 1.0, "threshold": 0.7, "clip": 5.0,
        "init_low": 0.0, "init_high": 1.0,
    },
    "taylor_batches": 2,
    "finetune": {
        "train": {
            "steps": 8, "epochs": None, "batch": 2, "optimizer": "adam", "lr": 1e-3,
            "weight_decay": 0.0, "schedule": "constant", "warmup": 0, "plateau_patience": 5,
            "plateau_threshold": 0.05, "clip": 5.0, "ema": 0.0, "validate_every": 4,
        },
        "at": [0, 2, 3],
        "totals": [6, 8],
        "epoch_updates": 3,
        "scratch_epochs": [3, 4],
    },
    "drop_easy": True,
}  # fmt: skip
PARAMS["dense"] = {net: {**PARAMS["finetune"]["train"], "lr": 5e-3} for net in CONFIGS}
ARMS = ("concrete", "threshold", "joint", "random", "l1", "taylor", "scratch", "dense_more")
SEEDS = (0, 1)


class Sound:
    """Stands in for prepared speech: noise, a pure function of (seed, step)."""

    rate, dataset = 240, "noise"
    splits = ("train", "valid")

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        sources = torch.randn(size, 2, self.rate, generator=generator)
        return sources.sum(1), sources

    def fixed(self, split: str) -> tuple[list[str], Tensor, Tensor]:
        mix, sources = self.batch(-1, 0, 3)
        return ["a", "b", "c"], mix, sources


@pytest.fixture(autouse=True, scope="module")
def sound() -> Iterator[None]:
    """The stage reads made-up sound."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prune.Speech, "load", lambda folder: Sound())
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tiny teachers and what calibrate says of them."""
    tmp_path = tmp_path_factory.mktemp("inputs")
    folders = {name: tmp_path / name for name in ("prepare", "teach", "calibrate")}
    targets = {}
    for name in ("sudormrf", "afrcnn"):
        torch.manual_seed(1)
        net = build({"name": name, **CONFIGS[name]})
        (folders["teach"] / name).mkdir(parents=True)
        save_file(net.state_dict(), folders["teach"] / name / "model.safetensors")
        (folders["teach"] / name / "config.json").write_text(json.dumps(net.config))
        costs = channel_costs(net.state_dict(), net.groups())
        targets[name] = {
            "groups": [group.name for group in net.groups()],
            "budget": prunable(net.groups(), costs) // 2,
        }
    folders["calibrate"].mkdir()
    (folders["calibrate"] / "targets.json").write_text(json.dumps(targets))
    mix, sources = Sound().batch(-2, 0, 6)
    save_file({"mix": mix, "sources": sources}, folders["calibrate"] / "batches.safetensors")
    return folders


def params(select: str, backbones: list[str] | None = None) -> prune.Params:
    arm = {"select": select, "backbones": backbones or ["sudormrf"]}
    return prune.Params.model_validate({**PARAMS, "variant": arm})


def run(select: str, inputs: dict[str, Path], out: Path, job: Job, **changes: Any) -> Path:
    job = replace(job, seeds=changes.pop("seeds", SEEDS), resume=job.resume / out.name)
    prune.run(params(select, **changes), inputs, out, job)  # type: ignore[arg-type]
    return out


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def results(
    inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    """Every arm on one backbone with two seeds."""
    folder = tmp_path_factory.mktemp("out")
    with for_tests(folder, Node("demo", "prune", None, None, (), (), ())) as job:
        environment.make_deterministic(1)
        yield {select: run(select, inputs, folder / select, job) for select in ARMS}


def test_every_arm_leaves_whole_nets_of_the_size_it_should(
    results: dict[str, Path], inputs: dict[str, Path]
) -> None:
    budget = read(inputs["calibrate"] / "targets.json")["sudormrf"]["budget"]
    dense = load(inputs["teach"] / "sudormrf")
    costs = channel_costs(dense.state_dict(), dense.groups())
    whole = sum(p.numel() for p in dense.parameters())
    fixed = whole - prunable(dense.groups(), costs)
    for select, out in results.items():
        for seed in SEEDS:
            folder = out / "sudormrf" / f"seed{seed}"
            listed = read(folder / "snapshots.json")
            files = {entry["file"] for entry in listed}
            assert {p.name for p in folder.iterdir()} == files | {
                "config.json", "keep.json", "snapshots.json", "curve.csv"
            }  # fmt: skip
            keep = read(folder / "keep.json")
            for entry in listed:
                net = load(folder, entry["file"])
                assert entry["total"] == entry["ft"] + keep["updates_spent"]
                assert entry["file"] == f"u{entry['ft']:05d}.safetensors"
            assert keep["parameters"] == sum(p.numel() for p in net.parameters())
            assert keep["dense_parameters"] == whole
            assert {name: len(index) for name, index in keep["kept"].items()} == keep["widths"]
            assert all(index == sorted(set(index)) for index in keep["kept"].values())
            if select == "dense_more":
                assert keep["parameters"] == whole
            elif select != "threshold":
                spent = keep["parameters"] - fixed
                assert budget - max(costs.values()) < spent <= budget
                assert keep["macs_per_second"] < keep["dense_macs_per_second"]
            learned = select in ("concrete", "threshold", "joint", "scratch")
            assert (keep["jaccard_of_two_draws"] is not None) == learned


def test_updates_are_counted_in_the_open(results: dict[str, Path]) -> None:
    def listed(select: str) -> list[tuple[int, int, int]]:
        entries = read(results[select] / "sudormrf" / "seed0" / "snapshots.json")
        return [(e["ft"], e["total"], e["total_with_search"]) for e in entries]

    searched = [(0, 4, 4), (2, 6, 6), (3, 7, 7), (4, 8, 8)]
    assert listed("concrete") == listed("threshold") == listed("joint") == searched
    free = [(step, step, step) for step in (0, 2, 3, 6, 8)]
    assert listed("random") == listed("l1") == listed("dense_more") == free
    assert listed("taylor") == [(s, s + 2, s + 2) for s in (0, 2, 3, 4, 6)]
    assert listed("scratch") == [(s, s, s + 4) for s in (0, 2, 3, 4, 6, 8, 9, 12)]


def test_arms_start_from_what_their_names_say(
    results: dict[str, Path], inputs: dict[str, Path]
) -> None:
    def at(select: str, step: int = 0, seed: int = 0) -> dict[str, Tensor]:
        folder = results[select] / "sudormrf" / f"seed{seed}"
        return load_file(folder / f"u{step:05d}.safetensors")

    def kept(select: str, seed: int = 0) -> dict[str, list[int]]:
        return read(results[select] / "sudormrf" / f"seed{seed}" / "keep.json")["kept"]

    dense = load_file(inputs["teach"] / "sudormrf" / "model.safetensors")
    more = at("dense_more")
    assert all(torch.equal(more[name], dense[name]) for name in dense)
    assert not torch.equal(at("dense_more", 8)["encoder.weight"], dense["encoder.weight"])
    # From scratch: SepPrune's widths of the same seed, other weights, for each seed others.
    assert kept("scratch") == kept("concrete") and kept("scratch", 1) == kept("concrete", 1)
    name = "bottleneck.weight"
    assert torch.equal(at("concrete")[name], dense[name])
    assert not torch.equal(at("scratch")[name], dense[name])
    assert not torch.equal(at("scratch")[name], at("scratch", seed=1)[name])
    # Weights move in a joint search, and in no other.
    assert not torch.equal(at("joint")[name], dense[name])
    for select in ("threshold", "random", "l1", "taylor"):
        assert torch.equal(at(select)[name], dense[name]), select
    assert kept("random") != kept("random", 1)
    assert kept("l1") == kept("l1", 1)


def test_two_backbones_with_a_shared_mask_too(
    inputs: dict[str, Path], tmp_path: Path, job: Job
) -> None:
    out = run("concrete", inputs, tmp_path / "two", job, backbones=["sudormrf", "afrcnn"])
    assert sorted(p.name for p in out.iterdir()) == ["afrcnn", "sudormrf"]
    keep = read(out / "afrcnn" / "seed1" / "keep.json")
    assert len(keep["kept"]) == CONFIGS["afrcnn"]["depth"]


@pytest.mark.parametrize("select", ["joint", "scratch", "taylor"])
def test_a_killed_stage_goes_on_to_the_same_bytes(
    inputs: dict[str, Path], tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch, select: str
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole = run(select, inputs, tmp_path / "whole", job)
    genuine, left = prune.write_bytes, [0]

    def failing(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise InterruptedError
        genuine(path, data)

    monkeypatch.setattr(prune, "write_bytes", failing)
    for snapshot in (1, 2, 3, 2):
        left[0] = snapshot
        with pytest.raises(InterruptedError):
            run(select, inputs, tmp_path / f"broken{snapshot}" / "again", job)
    # What a kill in the middle of a write leaves.
    (job.resume / "again" / "sudormrf-seed0" / "result" / ".u00000.safetensors.7.tmp").touch()
    left[0] = 0
    again = run(select, inputs, tmp_path / "again", job)
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for file in files:
        assert (whole / file).read_bytes() == (again / file).read_bytes(), file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at": [0, 3, 9]}, "a snapshot at 9 lies behind the last update 8"),
        ({"totals": [3]}, "choosing channels alone takes 4 updates"),
        ({"at": [2, 3]}, "at must hold 0 and the epoch"),
        ({"at": [0, 2]}, "at must hold 0 and the epoch"),
    ],
)
def test_snapshots_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    data = {**PARAMS, "variant": {"select": "l1", "backbones": ["sudormrf"]}}
    data["finetune"] = {**PARAMS["finetune"], **changes}
    with pytest.raises(ValidationError, match=message):
        prune.Params.model_validate(data)
