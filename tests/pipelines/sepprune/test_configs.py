"""Slips in params.yaml are found before anything runs."""

from pathlib import Path

import pytest

from pipelines.sepprune import prune, teach
from stages.core.errors import UserError
from stages.core.params import build, merge, read_yaml

VALUES = read_yaml(Path(__file__).parents[3] / "params.yaml")


def built(change, stage=teach, variant=None):
    values = merge(VALUES, {"sepprune": {stage.__name__.rpartition(".")[2]: change}})
    return build(stage.Params, values, "sepprune", stage.__name__.rpartition(".")[2], variant)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"backbones": {"sudormrf": {"blokcs": 4}}}, ["sudormrf.blokcs", "blocks"]),
        ({"backbones": {"sudormrf": {"blocks": 0}}}, ["sudormrf.blocks", "greater than"]),
        ({"backbones": {"sudormrf": {"attention_axis": "time"}}}, ["attention_axis"]),
        ({"backbones": {"afrcnn": {"hidden": "48"}}}, ["afrcnn.hidden", "integer"]),
        ({"backbones": {"convtasnet": {}}}, ["unknown backbone 'convtasnet'", "tdanet"]),
        ({"train": {"afrcnn": None}}, ["both need the same networks"]),
    ],
)
def test_a_wrong_network_is_refused(change, parts):
    with pytest.raises(UserError) as caught:
        built(change)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_an_arm_on_a_network_that_nobody_teaches_is_refused():
    variants = {"variants": {"random": {"backbones": ["tdanet"]}}}
    with pytest.raises(UserError, match="teach trains no tdanet; allowed: sudormrf, afrcnn"):
        built(variants, prune, "random")
