"""Arms that contradict themselves are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.q_vdit.arms import Arm
from tests.pipelines.q_vdit.small import TERM, TOKEN


def test_the_empty_arm_rounds_to_the_nearest() -> None:
    arm = Arm.model_validate({})
    assert (arm.scale, arm.rotated, arm.beside, arm.scope) == ("none", False, "none", "none")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": "smooth"}, "alpha"),
        ({"alpha": 0.5}, "alpha"),
        ({"beside": "svd"}, "rank"),
        ({"rank": 2}, "rank"),
        ({"gain": "measured", "inner": 1, "scope": "model"}, "gain"),
        ({"inner": 1, "beside": "svd", "rank": 1, "scope": "model"}, "taken away"),
        ({"rates": "scale_aware", "scope": "model"}, "inner"),
        ({"inner": 1}, "must learn"),
        ({"beside": "token"}, "must learn"),
        ({"temporal": TERM}, "scope 'model'"),
        ({"temporal": TERM, "scope": "block"}, "scope 'model'"),
        ({"inputs": False, "scope": "block"}, "scope 'model'"),
        ({"masked": False}, "scope 'model'"),
        (
            {
                "search": {
                    "group": 4, "sizes": [2, 4], "population": 4, "generations": 1, "samples": 2,
                },
                "scope": "model",
            },
            "nothing learned",
        ),
        ({"temporal": TERM | {"weight": 0}, "scope": "model"}, "greater than 0"),
        ({"ranks": 1}, "Extra inputs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Arm.model_validate(wrong)


def test_the_method_and_its_parts_are_arms() -> None:
    Arm.model_validate(TOKEN | {"temporal": TERM})
    Arm.model_validate(TOKEN)
    Arm.model_validate({"beside": "token", "scope": "model"})
    Arm.model_validate({"inner": 1, "temporal": TERM, "scope": "model"})
