"""Every profile's parameters do run: one step of every stage with `lab` and with `paper`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.merlin.distill import Params
from stages.claims.model import Claim, Measure, load
from stages.core import dag
from stages.core.params import build, merge
from stages.core.profiles import overlaid
from tests.pipelines.merlin.prepared import lay, roads

ROOT = Path(__file__).resolve().parents[3]
ONCE = {"steps": 1, "epochs": None, "batch": 2, "validate_every": 1}
ARMS = ("merlin", "mixed_l1", "impute_last", "merlin_mask")
SHORT: dict[str, Any] = {
    "teach": {"valid_windows": 2},
    "distill": {"seeds": ["0-1"], "epoch_updates": 1, "valid_windows": 2},
    "evaluate": {"stride": 1, "blocks": 2, "horizons": [12], "by_horizon": ["dense", "merlin"]},
    "bench": {
        "variants": ["merlin", "mixed_l1"], "seeds": [0], "threads": [1], "rounds": 1,
        "repeats": 1, "warmup": 1, "train_step": {"batch": 2, "warmup": 1, "repeats": 1},
    },
}  # fmt: skip
"""One step of everything, on a moment of traffic."""


def project(folder: Path, profile: str) -> Path:
    """A project on made-up traffic with the profile's parameters, cut to one step each."""
    values, _ = overlaid(ROOT, profile)
    paper = merge(values["merlin"], SHORT)
    shares = {"train": 0.6, "valid": 0.2, "test": 0.2}
    names = paper["teach"]["datasets"][:2]
    sets = paper["prepare"]["datasets"] = {n: paper["prepare"]["datasets"][n] for n in names}
    for dataset in sets.values():
        dataset |= {
            "source": "metr_la",
            "root": "metr_la",
            "shares": shares,
            "train_steps": None,
            "until": None,
        }
    for section in ("teach", "distill"):
        for spec in paper[section]["train"].values():
            spec |= ONCE
    arms = {name: paper["distill"]["variants"][name] for name in ARMS}
    paper["distill"]["variants"] = {n: {**arm, "datasets": names} for n, arm in arms.items()}
    paper["teach"]["datasets"], paper["bench"]["dataset"] = names, names[0]
    place = {"dataset": names[0], "backbone": "stid", "window": 0, "sensor": "0000"}
    shown = {"masks": ["mcar-50"], "variants": ["dense", "merlin"]}
    paper["evaluate"]["example"] = {**place, **shown}
    # Without gaps, so that any window can be drawn.
    lay(folder, roads().clip(min=1))
    for part in ("pipelines", "stages"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "data.lock", folder)
    (folder / "params.yaml").write_text(yaml.safe_dump({**values, "merlin": paper}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["lab", "paper"])
def test_one_step_of_every_stage(tmp_path: Path, profile: str) -> None:
    folder = project(tmp_path / "p", profile)
    env = {**os.environ, "RETORT_TRACKING": "off"}
    values = yaml.safe_load((folder / "params.yaml").read_text())
    nodes = [n for n in dag.nodes(folder, "merlin", values) if n.stage not in ("claims", "page")]
    subprocess.run([sys.executable, "-m", "stages", "fingerprint"], cwd=folder, check=True)
    for node in nodes:
        words = [sys.executable, "-m", "stages", node.stage, node.paper]
        words += ["--variant", node.variant] if node.variant else []
        words += ["--seeds", node.seeds] if node.seeds else []
        done = subprocess.run(
            words, cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{node.name}: {done.stdout}\n{done.stderr}"
        assert (folder / node.folder / "provenance.json").is_file()


@pytest.mark.parametrize("profile", ["smoke", "desk", "lab", "paper"])
def test_arms_differ_in_what_their_names_say_and_are_equal_otherwise(profile: str) -> None:
    """Every arm that trains takes as many updates of as many windows, from the same masks."""
    values, _ = overlaid(ROOT, profile)
    section = values["merlin"]
    arms = {
        name: build(Params, values, "merlin", "distill", name)
        for name in section["distill"]["variants"]
    }
    assert {"merlin", "mixed_l1", "mixed_l1_clean", "impute_linear"} <= set(arms)
    for params in arms.values():
        assert set(params.variant.datasets) <= set(section["teach"]["datasets"])
        assert set(params.variant.backbones) <= set(section["teach"]["backbones"])
        assert set(params.variant.backbones) <= set(params.train)
    assert set(section["teach"]["datasets"]) == set(section["prepare"]["datasets"])
    assert section["bench"]["dataset"] in section["teach"]["datasets"]
    full = arms["merlin"].variant
    assert full.hidden and full.result and full.contrast and full.init == "fresh"
    plain, clean = arms["mixed_l1"].variant, arms["mixed_l1_clean"].variant
    assert not plain.taught and not plain.contrast and not plain.clean
    assert plain.model_copy(update={"clean": True, "backbones": [], "datasets": []}) == (
        clean.model_copy(update={"backbones": [], "datasets": []})
    )
    for part in ("hidden", "result", "contrast"):
        without = arms.get(f"merlin_no_{part}")
        if without:
            expected = full.model_copy(update={part: False, "backbones": [], "datasets": []})
            assert without.variant.model_copy(update={"backbones": [], "datasets": []}) == expected


def scored(profile: str) -> tuple[set[tuple[str, str, str]], set[str], set[str]]:
    """What a profile scores: (arm, data set, backbone), conditions, and arms that it benches."""
    section = overlaid(ROOT, profile)[0]["merlin"]
    arms = section["distill"]["variants"]
    nets = {(v, d, b) for v, a in arms.items() for d in a["datasets"] for b in a["backbones"]}
    nets |= {(v, d, b) for _, d, b in set(nets) for v in ("dense", "persistence")}
    conditions = {"complete", *section["evaluate"]["masks"]}
    return nets, conditions, {"dense", *section["bench"]["variants"]}


def has(profile: str, quantity: Measure) -> bool:
    nets, conditions, benched = scored(profile)
    arms = {quantity.variant, quantity.baseline} - {None}
    if quantity.table == "bench":
        return arms <= benched
    cells = {(arm, quantity.dataset, quantity.backbone) for arm in arms}
    return cells <= nets and quantity.condition in conditions


CLAIMS = load(ROOT / "pipelines/merlin/claims.yaml").claims


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_tested_where_it_says(claim: Claim) -> None:
    """Each cell can be tested in the profile that it needs and in those above on the same data, and
    in none below."""
    ladder = ("desk", "lab")
    for cell in claim.places():
        need = cell.needs or claim.needs
        first, quantity = need.profile if need else "desk", claim.at(cell)
        if first == "paper":
            assert has("paper", quantity), cell
            assert not any(has(profile, quantity) for profile in ladder), cell
        else:
            found = [has(profile, quantity) for profile in ladder]
            assert found == [p in ladder[ladder.index(first) :] for p in ladder], cell


def test_the_published_data_test_every_claim_but_that_on_little_data() -> None:
    untested = {
        claim.id
        for claim in CLAIMS
        if not any(has("paper", claim.at(cell)) for cell in claim.places())
    }
    assert untested == {"with-little-data"}


@pytest.mark.parametrize("profile", ["smoke", "desk", "lab"])
def test_teachers_and_students_make_as_many_updates(profile: str) -> None:
    section = overlaid(ROOT, profile)[0]["merlin"]
    for backbone, spec in section["distill"]["train"].items():
        teacher = section["teach"]["train"][backbone]
        assert spec["steps"] == teacher["steps"] is not None
        assert spec["batch"] * 2 == teacher["batch"]
