"""What params.yaml and its overlays say of Merlin's data: the traps of the published code."""

from math import gcd
from pathlib import Path

import pytest

from pipelines.merlin import masks, prepare
from stages.core import params as core
from stages.core.profiles import overlaid

ROOT = Path(__file__).parents[3]
PROFILES = ("smoke", "desk", "lab", "paper")


def drawn(profile: str) -> tuple[dict, set[str], set[str]]:
    """Merlin's section, the masks that prepare draws, and those of them drawn in one nest."""
    values, _ = overlaid(ROOT, profile)
    spec = core.build(prepare.Params, values, "merlin", "prepare").masks
    nest = {masks.key("mcar", rate) for rate in spec.nested}
    return values["merlin"], set(masks.draw(spec, 100, 1, "x")), nest


@pytest.mark.parametrize("profile", PROFILES)
def test_tests_go_beyond_what_training_sees(profile: str) -> None:
    """Trap: the paper's "unfixed" rates are the four of training, in training and in test."""
    section, there, nest = drawn(profile)
    views, scored = set(section["calibrate"]["views"]), set(section["evaluate"]["masks"])
    assert views <= nest and scored <= there
    assert views & scored and scored - views
    if profile != "smoke":
        assert views <= scored and {"changing"} < scored - views
        assert any(name.startswith("block-") for name in scored)
        assert any(name.startswith("mcar-") for name in scored - views)


@pytest.mark.parametrize("profile", PROFILES)
def test_arms_see_the_views_that_are_chosen(profile: str) -> None:
    section, _, nest = drawn(profile)
    assert section["calibrate"]["views"] == sorted(nest, key=lambda name: masks.rate_of(name) or 0)


@pytest.mark.parametrize("profile", PROFILES)
def test_scored_windows_begin_at_every_hour(profile: str) -> None:
    """Else how far ahead a forecast looks would be told by the time of day."""
    section, _, _ = drawn(profile)
    stride = section["evaluate"]["stride"]
    assert all(gcd(stride, day) == 1 for day in (24, 144, 288))  # steps of the sets
    if profile == "desk":
        assert stride >= section["prepare"]["horizon"]  # and no step is forecast twice
