"""What params.yaml and its overlays ask of Q-VDiT's arms, and where its claims can be tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.bench import NETS
from pipelines.q_vdit.names import LABELS
from pipelines.q_vdit.source import NAME
from stages.claims.model import Claim, Measure, load
from tests.pipelines.foundations.video import claimed, steps
from tests.pipelines.foundations.video.claimed import LADDER, ROOT

CLAIMS = load(ROOT / "pipelines/q_vdit/claims.yaml").claims
PROFILES = ("smoke", "desk", "lab", "paper")
SHORT: dict[str, Any] = {
    "calibrate": {"prompts": 2, "steps": 2, "batch": 2},
    "quantize": {
        "seeds": ["0"],
        "cells": ["W3A6-mix"],
        "train": {"steps": 1, "batch": 2},
        "batch": 2,
    },
    "evaluate": {
        "batch": 2,
        "forced": {"clips": 1, "steps": 1},
        "free": {"clips": 2, "cells!": {"W3A6-mix": {"q_vdit": 1}}},
        "shown": {"conditions": ["W3A6-mix"], "clips": 1},
    },
    "bench": {
        "models": {"bits": ["W3A6-mix"]},
        "blocks": {"arms!": {"q_vdit": ["exact"], "mse": ["exact"]}, "nets!": {"latte-xl-2": []}},
        "stored": {"arms": ["q_vdit", "mse"], "bits": ["W3A6-mix"]},
    },
}


def section(profile: str) -> dict[str, Any]:
    return claimed.section("q_vdit", profile)


def arms(profile: str) -> dict[str, Arm]:
    made = section(profile)["quantize"]["variants"]
    return {name: Arm.model_validate(values) for name, values in made.items()}


def has(profile: str, quantity: Measure) -> bool:
    own = section(profile)
    if quantity.table == "bench":
        return claimed.benched(own, NAME, NETS, quantity)
    return claimed.judged(own, "cells", quantity)


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
    full = found["q_vdit"]
    assert full.beside == "token" and full.gain == "measured" and full.inner is None
    assert full.temporal is not None and full.temporal.frames == "axis"
    assert full.inputs and full.masked and full.scope == "model"
    assert found["rtn"] == Arm()
    # Without the estimator a branch of as many numbers learns in front of the quantizer.
    bare: dict[str, Any] = {"beside": "none", "gain": "none", "inner": 1}
    changes: dict[str, dict[str, Any]] = {
        "tqe": {"temporal": None},
        "tqe_no_gain": {"temporal": None, "gain": "none"},
        "tmd": bare,
        "mse": bare | {"temporal": None},
    }
    assert full.temporal.reduction == "mean"
    total = full.temporal.model_copy(update={"reduction": "sum"})
    changes |= {"tmd_sum": bare | {"temporal": total}, "q_vdit_sum": {"temporal": total}}
    if "as_released" in found:  # trap 2(f)-4: no branch of the release is the paper's
        released = found["as_released"]
        assert released.inner == 32 and released.gain == "doubled" and released.beside == "token"
        assert not released.inputs and not released.masked and released.temporal is not None
        inner = Arm(inner=32, scope="model", branch_rate=released.branch_rate)
        assert found["released_inner"] == inner
    for name, change in changes.items():
        if name in found:
            assert found[name] == full.model_copy(update=change), name
    assert {"mse"} <= set(found)


def test_frames_are_scrambled_where_clips_have_channels() -> None:
    """Of one channel, as digits have, nothing can be scrambled, and the stage refuses the arm."""
    found, scrambled = arms("paper"), {"frames": "scrambled"}
    pairs = {"released_scrambled": "q_vdit", "as_released_scrambled": "as_released"}
    for name, other in pairs.items():
        term = found[other].temporal
        assert term is not None
        wanted = found[other].model_copy(update={"temporal": term.model_copy(update=scrambled)})
        assert found[name] == wanted, name
    for profile in ("smoke", *LADDER):
        terms = [arm.temporal for arm in arms(profile).values()]
        assert all(term is None or term.frames == "axis" for term in terms)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_arm_has_a_name_of_its_own(profile: str) -> None:
    assert set(arms(profile)) <= set(LABELS)
    assert len(set(LABELS.values())) == len(LABELS)


def test_at_desk_the_claims_have_three_calibration_sets() -> None:
    own = section("desk")
    assert claimed.seeds(own) >= 3
    headline = own["evaluate"]["free"]["cells"]["W3A6-mix"]
    assert {"q_vdit", "vidit_q", "ptq4dit", "efficientdm"} <= set(headline)
    assert set(own["quantize"]["cells"]) >= {"W4A6-mix", "W3A6-mix"}


@pytest.mark.parametrize("profile", LADDER)
def test_every_claim_can_be_judged_on_what_the_stages_write(profile: str) -> None:
    found = {entry["id"]: entry for entry in claimed.judge("q_vdit", "cells", profile, NAME, NETS)}
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
    deployed = {"q_vdit": ["exact"]} if profile == "lab" else {}
    ran = steps.run(tmp_path, profile, "q_vdit", NAME, ["q_vdit", "mse"], deployed, SHORT)
    assert ran[-5:] == [
        "calibrate", "quantize@q_vdit-0", "quantize@mse-0", "evaluate", "bench",
    ]  # fmt: skip
