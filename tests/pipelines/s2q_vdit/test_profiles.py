"""What params.yaml and its overlays ask of S²Q-VDiT's arms, and where its claims can be tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.s2q_vdit.arms import Arm
from pipelines.s2q_vdit.bench import NETS
from pipelines.s2q_vdit.names import LABELS
from pipelines.s2q_vdit.source import NAME
from stages.claims.model import Claim, Measure, load
from tests.pipelines.foundations.video import claimed, steps
from tests.pipelines.foundations.video.claimed import LADDER, ROOT

CLAIMS = load(ROOT / "pipelines/s2q_vdit/claims.yaml").claims
PROFILES = ("smoke", "desk", "lab", "paper")
SHORT: dict[str, Any] = {
    "calibrate": {"prompts": 3, "count": 2, "batch": 3},
    "quantize": {"seeds": ["0"], "bits": ["W4A4"], "course": {"epochs": 1, "batch": 2}},
    "evaluate": {
        "batch": 2,
        "forced": {"clips": 1, "steps": 1},
        "free": {"clips": 2, "cells!": {"W4A4": {"s2q": 1}}},
        "shown": {"conditions": ["W4A4"], "clips": 1},
    },
    "bench": {
        "models": {"bits": ["W4A4"]},
        "blocks": {"arms!": {"rtn": ["exact"]}, "nets!": {"cogvideox-2b": []}},
        "stored": {"arms": ["s2q", "rtn"], "bits": ["W4A4"]},
        "updates": {
            "arms": ["s2q"],
            "turns": 1,
            "blocks": [{"width": 16, "heads": 2, "frames": 2, "side": 2}],
        },
    },
}


def section(profile: str) -> dict[str, Any]:
    return claimed.section("s2q_vdit", profile)


def arms(profile: str) -> dict[str, Arm]:
    made = section(profile)["quantize"]["variants"]
    return {name: Arm.model_validate(values) for name, values in made.items()}


def has(profile: str, quantity: Measure) -> bool:
    own = section(profile)
    if quantity.table == "bench":
        return claimed.benched(own, NAME, NETS, quantity)
    return claimed.judged(own, "bits", quantity)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_tested_where_it_says(claim: Claim) -> None:
    """In the profile that it needs and those above on the same data, and in none below."""
    for cell in claim.places():
        need = cell.needs or claim.needs
        assert [has(profile, claim.at(cell)) for profile in LADDER] == claimed.where(need), cell
        if need and need.profile == "paper":
            assert has("paper", claim.at(cell)), cell


@pytest.mark.parametrize("profile", PROFILES)
def test_arms_differ_in_what_their_names_say(profile: str) -> None:
    found = arms(profile)
    full = found["s2q"]
    assert full.selection == "sds" and full.least == 0.5
    assert full.base.rotation == full.base.scale == full.base.clip == "learned"
    assert full.base.rounding == "gptq"
    changes: dict[str, dict[str, Any]] = {
        "sds": {"least": None},
        "std": {"selection": "random"},
        **{how: {"selection": how, "least": None} for how in ("ds", "qs", "atop", "atfp", "rtfp")},
        "mse": {"selection": "random", "least": None},
        **{f"s2q_least{n}": {"least": n / 100} for n in (0, 25, 75)},
    }
    for name, change in changes.items():
        if name in found:
            assert found[name] == full.model_copy(update=change), name
    parts: dict[str, dict[str, Any]] = {
        "no_rotation": {"rotation": "none"},
        "fixed_rotation": {"rotation": "hadamard"},
        "no_scale": {"scale": "none", "alpha": None},
        "no_clip": {"clip": "max"},
        "no_gptq": {"rounding": "nearest"},
    }
    for name, change in parts.items():
        if name in found:
            base = full.base.model_copy(update=change)
            assert found[name] == full.model_copy(update={"base": base}), name
    assert profile != "lab" or set(parts) <= set(found)
    # The choices of table 6 that the published network is compared with.
    assert profile != "paper" or {"ds", "qs", "atop", "atfp", "rtfp", "mse"} <= set(found)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_arm_has_a_name_of_its_own(profile: str) -> None:
    assert set(arms(profile)) <= set(LABELS)
    assert len(set(LABELS.values())) == len(LABELS)


def test_at_desk_the_claims_have_five_calibration_sets() -> None:
    """The paper's claim is about variance over them."""
    own = section("desk")
    assert claimed.seeds(own) >= 5
    assert set(own["quantize"]["bits"]) >= {"W4A6", "W4A4"}
    for bits in ("W4A6", "W4A4"):
        assert own["evaluate"]["free"]["cells"][bits]["s2q"] == claimed.seeds(own)


@pytest.mark.parametrize("profile", LADDER)
def test_every_claim_can_be_judged_on_what_the_stages_write(profile: str) -> None:
    found = {entry["id"]: entry for entry in claimed.judge("s2q_vdit", "bits", profile, NAME, NETS)}
    for claim in CLAIMS:
        for cell, entry in zip(claim.places(), found[claim.id]["cells"], strict=True):
            need = cell.needs or claim.needs
            there = claimed.where(need)[LADDER.index(profile)]
            assert (entry["verdict"] != "not testable here") == there, (claim.id, cell)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["lab", "paper"])
def test_one_step_of_every_stage(tmp_path: Path, profile: str) -> None:
    if profile == "paper":
        for package in ("transformers", "av"):
            pytest.importorskip(package, reason="profile paper needs it")
    # Graphs of published networks are not made.
    deployed = {"s2q": ["exact"]} if profile == "lab" else {}
    ran = steps.run(tmp_path, profile, "s2q_vdit", NAME, ["s2q", "rtn"], deployed, SHORT)
    assert ran[-5:] == [
        "calibrate", "quantize@s2q-0", "quantize@rtn-0", "evaluate", "bench",
    ]  # fmt: skip
