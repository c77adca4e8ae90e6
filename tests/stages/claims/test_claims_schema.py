"""claims.yaml: what it may say, and how a mistake in it is named."""

import re

import pytest
import yaml
from pydantic import ValidationError

from stages.claims.model import is_timing, load
from stages.core.errors import UserError
from tests.stages.claims.claimed import claim, sheet


def saved(tmp_path, *claims):
    path = tmp_path / "demo" / "claims.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"paper": "demo", "claims": list(claims)}))
    return path


def test_a_good_file(tmp_path):
    found = load(saved(tmp_path, claim(), claim(id="other")))
    assert [c.id for c in found.claims] == ["better", "other"]


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"rule": {"kind": "better"}}, "rule"),
        ({"typo": 1}, "typo"),
        ({"published": {"value": "1", "unit": "dB"}}, "published.value"),
        ({"id": "Not An Id"}, "id"),
        ({"tolerance": {"reason": "none given"}}, "tolerance: give either"),
        ({"tolerance": {"absolute": -1, "reason": "x"}}, "tolerance.absolute"),
        ({"tolerance": None}, "needs a tolerance"),
        ({"measure": {"baseline": None}}, "needs a baseline"),
        ({"measure": {"compare": "value"}}, "takes no baseline"),
        ({"measure": {"compare": "share"}}, "is in %, not dB"),
        ({"rule": {"kind": "exact"}, "published": {"value": None, "unit": "dB"}}, "published"),
        (
            {"rule": {"kind": "non_inferior", "margin": 1, "reason": "x"}},
            "no use for a tolerance",
        ),
        (
            {"measure": {"compare": "ratio"}, "published": {"value": 2, "unit": "×"},
             "rule": {"kind": "non_inferior", "margin": 1, "reason": "x"}, "tolerance": None},
            "non_inferior compares a difference",
        ),
        (
            {"measure": {"compare": "value", "baseline": None}},
            "better_than of a value needs 'than'",
        ),
        (
            {"cells": {"combine": "mean", "of": [{}]}, "tolerance": None,
             "rule": {"kind": "check", "must_be": "at_most", "bound": 1}},
            "a check is made in each cell",
        ),
        ({"measure": {"compare": "value", "baseline": None, "also": ["share"]}}, "'also' needs"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_claim_and_key(tmp_path, changes, named):
    with pytest.raises(UserError, match=re.escape(named)) as error:
        load(saved(tmp_path, claim(**changes)))
    assert "demo/claims.yaml" in str(error.value)
    if "id" not in changes:
        assert "claim 'better'" in str(error.value)


def test_an_id_stands_once(tmp_path):
    with pytest.raises(UserError, match="these ids stand twice: better"):
        load(saved(tmp_path, claim(), claim()))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"claims\.yaml is missing"):
        load(tmp_path / "claims.yaml")


def test_a_cell_may_have_its_own_published_number_or_none():
    cells = {"combine": "each", "of": [{}, {"published": 2.0}, {"published": None}]}
    found = sheet(claim(cells=cells)).claims[0]
    assert [found.printed(cell) for cell in found.places()] == [1.0, 2.0, None]


def test_claims_do_not_change():
    with pytest.raises(ValidationError):
        sheet(claim()).claims[0].id = "other"


def test_what_counts_as_a_timing():
    timed = (
        "latency_ms", "rtf", "peak_memory_mb", "train_memory_mb", "train_step_ms",
        "step_over_plain_and_teacher", "step_over_plain", "teacher_forward_ms", "teacher_forward",
        "update_over_pass",
    )  # fmt: skip
    assert all(is_timing(metric) for metric in timed)
    counted = ("macs", "parameters", "size_mb", "si_sdri", "best_step", "updates")
    assert not any(is_timing(metric) for metric in counted)
