"""Arms that mean nothing are refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.s2q_vdit.arms import Arm
from tests.pipelines.s2q_vdit import small


def arm(name: str, selection: str | None, least: float | None) -> Arm:
    values: dict[str, Any] = {"selection": selection, "least": least, "base": small.raw_base(name)}
    return Arm.model_validate(values)


def test_arms_that_are_sound() -> None:
    assert arm("full", "sds", 0.5).least == 0.5
    assert arm("nearest", None, None).selection is None
    assert arm("smooth", "random", None).selection == "random"


@pytest.mark.parametrize(
    ("name", "selection", "least", "told"),
    [
        ("full", None, None, "needs a selection"),
        ("groups", None, None, "needs a selection"),
        ("nearest", "sds", None, "sees no data"),
        ("rotated", "random", None, "sees no data"),
        ("smooth", "sds", 0.5, "here nothing does"),
        ("full", "best", None, "selection"),
        ("full", "sds", 1.0, "less than 1"),
    ],
)
def test_arms_that_are_not(
    name: str, selection: str | None, least: float | None, told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        arm(name, selection, least)
