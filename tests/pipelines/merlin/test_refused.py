"""Networks and arms that cannot be are refused before anything runs, with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.merlin.arms import Arm
from tests.pipelines.merlin import made
from tests.pipelines.merlin.test_distill import params, teach_params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbones": {"moon": {}}}, "unknown backbone 'moon'; allowed: stid, tsmixer, dsformer"),
        ({"backbones": {"stid": {**made.STID, "wide": 1}}}, "stid.wide: Extra inputs"),
        ({"backbones": {"stid": {**made.STID, "layers": 0}}}, "stid.layers: Input should be gr"),
        ({"backbones": {"stid": {"embed": 4}}}, "stid.node: Field required"),
        ({"backbones": {"stid": made.STID}}, "train has stid, tsmixer, backbones has stid"),
    ],
)
def test_networks_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        teach_params(**changes)


def test_an_arm_whose_training_is_not_said_is_refused() -> None:
    with pytest.raises(ValidationError, match="does not say how to train dsformer"):
        params("merlin", backbones=["stid", "dsformer"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast": True, "per_rate": True}, "several views"),
        ({"init": "frozen", "hidden": True}, "trains nothing"),
        ({"init": "frozen", "clean": True}, "trains nothing"),
        ({"init": "teacher", "input": "mask"}, "takes no mask"),
        ({"backbones": []}, "at least 1"),
        ({"input": "guess"}, "input"),
        ({"backbones": ["moon"]}, "'stid', 'tsmixer' or 'dsformer'"),
        ({"backbones": ["tsmixer"], "hidden": True, "input": "mask"}, "twice as wide"),
    ],
)
def test_arms_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Arm.model_validate({"backbones": ["stid"], "datasets": ["waves"], **changes})
