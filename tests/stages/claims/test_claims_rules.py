"""Rules on bare intervals, and how cells make one verdict."""

import numpy as np
import pytest

from stages.claims import rules
from stages.claims.model import Check, Equivalent, Tolerance
from stages.core.errors import UserError
from stages.core.stats import Interval
from tests.stages.claims.claimed import claim, sheet


def judged(value, low, high, direction="higher", counted=False, **changes):
    found = sheet(claim(**changes)).claims[0]
    line = rules.line(found, found.published.value, direction)
    return rules.judge(line, Interval(value, low, high), counted=counted)


@pytest.mark.parametrize(
    "value, low, high, verdict",
    [
        (1.2, 0.8, 1.6, "holds"),
        (0.5, 0.1, 0.9, "holds"),  # reaches 1 dB less half of it
        (0.49, 0.1, 0.9, "holds in direction"),
        (0.4, -0.1, 0.9, "inconclusive"),
        (1.4, 0.0, 2.8, "inconclusive"),  # touching zero is not beyond it
        (-0.4, -0.9, -0.1, "fails"),
        (0.0, 0.0, 0.0, "inconclusive"),  # no score tells the arms apart
        (np.nan, -np.inf, np.inf, "inconclusive"),
    ],
)
def test_better_than_a_baseline(value, low, high, verdict):
    assert judged(value, low, high) == verdict
    if not np.isnan(value):  # a metric of which less is better turns everything round
        mirrored = {"published": {"value": -1.0, "unit": "dB"}}
        assert judged(-value, -high, -low, "lower", **mirrored) == verdict


def test_a_count_that_is_the_same_is_not_better():
    assert judged(0.0, 0.0, 0.0, counted=True) == "fails"
    same = {"measure": {"compare": "ratio"}, "published": {"value": 1.5, "unit": "×"}}
    assert judged(1.0, 1.0, 1.0, counted=True, **same) == "fails"
    assert judged(1.0, 1.0, 1.0, **same) == "inconclusive"


def test_a_censored_interval_is_open_at_one_end():
    fast = {"measure": {"compare": "speedup"}, "published": {"value": 36, "unit": "×"}}
    assert judged(10, 10, np.inf, "lower", **fast) == "holds in direction"
    assert judged(20, 15, np.inf, "lower", **fast) == "holds"
    assert judged(2, 0.9, np.inf, "lower", **fast) == "inconclusive"


def test_relative_tolerance_is_of_the_effect():
    quick = {
        "measure": {"compare": "speedup"},
        "published": {"value": 1.1, "unit": "×"},
        "tolerance": {"relative": 0.5, "reason": "x"},
    }
    assert judged(1.06, 1.01, 1.1, "lower", **quick) == "holds"
    assert judged(1.04, 1.01, 1.1, "lower", **quick) == "holds in direction"


def test_better_than_a_number():
    more = {
        "measure": {"compare": "value", "baseline": None},
        "rule": {"kind": "better_than", "than": 50},
        "published": {"value": 77, "unit": "dB"},
        "tolerance": {"absolute": 10, "reason": "x"},
    }
    assert judged(70, 66, 74, **more) == "holds"
    assert judged(60, 56, 64, **more) == "holds in direction"
    assert judged(40, 36, 44, **more) == "fails"


@pytest.mark.parametrize(
    "low, high, verdict",
    [(80, 95, "holds"), (79, 95, "inconclusive"), (60, 79.9, "fails"), (86, 95, "holds")],
)
def test_at_least(low, high, verdict):
    share = {
        "measure": {"compare": "share"},
        "published": {"value": 85, "unit": "%"},
        "rule": {"kind": "at_least", "bound": 85},
        "tolerance": {"absolute": 5, "reason": "x"},
    }
    assert judged((low + high) / 2, low, high, **share) == verdict


def test_at_most():
    limit = {
        "rule": {"kind": "at_most", "bound": 2},
        "tolerance": {"relative": 0.1, "reason": "x"},
    }
    assert judged(2, 1.8, 2.2, **limit) == "holds"
    assert judged(2.3, 2.1, 2.5, **limit) == "inconclusive"
    assert judged(3, 2.5, 3.5, **limit) == "fails"


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (-0.4, 0.2, "holds"),  # straddles zero, but not the margin
        (-0.4, -0.1, "holds"),  # worse for certain, by less than the margin for certain
        (-0.6, 0.2, "inconclusive"),
        (-0.9, -0.6, "fails"),
        (0.1, 0.3, "holds"),
    ],
)
def test_not_worse_than_a_margin(low, high, verdict):
    near = {"rule": {"kind": "non_inferior", "margin": 0.5, "reason": "x"}, "tolerance": None}
    assert judged((low + high) / 2, low, high, **near) == verdict
    assert judged(-(low + high) / 2, -high, -low, "lower", **near) == verdict


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (-0.4, 0.2, "holds"),
        (-0.6, 0.2, "inconclusive"),
        (-0.2, 0.6, "inconclusive"),  # nor better by as much
        (-0.9, -0.6, "fails"),
        (0.6, 0.9, "fails"),
    ],
)
def test_alike_within_a_margin(low, high, verdict):
    rule = Equivalent(kind="equivalent", margin=0.5, reason="x")
    assert rules.judge_equivalent(rule, Interval((low + high) / 2, low, high)) == verdict


def test_a_rule_that_goes_by_direction_needs_one():
    with pytest.raises(UserError, match="'score' has no better direction"):
        judged(1, 1, 1, "none")
    fewer = {"measure": {"compare": "saving"}, "published": {"value": 40, "unit": "%"}}
    assert judged(50, 45, 55, "none", **fewer) == "holds"  # a saving says itself what is better


@pytest.mark.parametrize(
    "low, high, verdict",
    [(9.6, 10.4, "holds"), (9.4, 10.4, "inconclusive"), (10.6, 11, "fails"), (9, 9.4, "fails")],
)
def test_an_exact_quantity(low, high, verdict):
    tolerance = Tolerance(relative=0.05, reason="x")
    found = rules.judge_exact(Interval((low + high) / 2, low, high), 10, tolerance)
    assert found == verdict


@pytest.mark.parametrize(
    "must_be, estimates, verdict",
    [
        ("at_most", [0.6, 0.75], "check passed"),
        ("at_most", [0.6, 0.76], "check failed"),  # one seed is enough
        ("at_least", [0.75, 0.8], "check passed"),
        ("equal", [0.74, 0.76], "check passed"),
        ("equal", [0.75, 0.78], "check failed"),
    ],
)
def test_what_we_set_ourselves_is_checked_and_never_holds(must_be, estimates, verdict):
    rule = Check(kind="check", must_be=must_be, bound=0.75)
    tolerance = Tolerance(absolute=0.02, reason="x") if must_be == "equal" else None
    assert rules.judge_check(rule, np.array(estimates), tolerance) == verdict


HOLDS, DIRECTION, OPEN, FAILS = "holds", "holds in direction", "inconclusive", "fails"


@pytest.mark.parametrize(
    "how, cells, left_out, verdict",
    [
        ("each", [HOLDS, HOLDS], 0, HOLDS),
        ("each", [HOLDS, DIRECTION], 0, DIRECTION),
        ("each", [HOLDS, OPEN], 0, OPEN),
        ("each", [HOLDS, OPEN, FAILS], 0, FAILS),
        ("each", [HOLDS], 2, HOLDS),
        ("any", [HOLDS, FAILS], 0, HOLDS),
        ("any", [OPEN, FAILS], 0, OPEN),
        ("most", [HOLDS, HOLDS, FAILS], 0, HOLDS),
        ("most", [HOLDS, HOLDS], 1, HOLDS),
        ("most", [HOLDS, DIRECTION, FAILS], 0, DIRECTION),
        ("most", [HOLDS, FAILS], 1, OPEN),  # the third cell would decide
        ("most", [HOLDS, FAILS], 0, FAILS),  # one of two is not over half
        ("most", [FAILS, FAILS], 1, FAILS),
        ("most", [HOLDS], 2, OPEN),
        ("most", [OPEN, OPEN, FAILS], 0, OPEN),
    ],
)
def test_several_cells_make_one_verdict(how, cells, left_out, verdict):
    found, rank = rules.combine(how, cells, left_out)
    assert found == verdict
    assert 0 <= rank < len(cells)
