"""Verdicts from made-up scores: every kind, censored scores, one teacher, single scores."""

import numpy as np
import pytest

from stages.claims.measure import binomial
from stages.core import stats
from stages.core.errors import UserError
from tests.stages.claims.claimed import against, claim, one, rows, spread, table


@pytest.mark.parametrize(
    "gain, sd, verdict",
    [
        (1.5, 0.3, "holds"),
        (0.4, 0.3, "holds in direction"),
        (-0.5, 0.3, "fails"),
        (0.05, 2.0, "inconclusive"),
    ],
)
def test_each_verdict(gain, sd, verdict):
    found = one(claim(), against(spread(8 + gain, sd), spread(8, sd, seed=7)))
    assert found["verdict"] == verdict
    assert found["value"] == pytest.approx(gain, abs=1e-6)
    assert found["low"] < gain < found["high"]
    assert (found["unit"], found["published"], found["seeds"]) == ("dB", 1.0, 3)
    assert found["given"] == "one teacher"


def test_the_numbers_are_those_of_stats():
    ours, base = spread(9, 1.0), spread(8, 1.0, seed=7)
    wanted = stats.interval(ours, base, "mean", "difference")
    found = one(claim(), against(ours, base))
    assert [found["value"], found["low"], found["high"]] == pytest.approx(
        [wanted.value, wanted.low, wanted.high], rel=1e-5
    )


def test_an_open_question_says_how_many_seeds_would_settle_it():
    # Seeds differ a lot, items not at all: more seeds help.
    seeds = np.array([[0.9], [-0.6], [0.6]]) + np.zeros((1, 40))
    found = one(claim(), against(8 + seeds, np.full((3, 40), 8.0)))
    assert found["verdict"] == "inconclusive"
    settle = found["cells"][0]["seeds_to_settle"]
    assert 10 < settle < 100
    assert f"about {settle} seeds would settle it" in found["reason"]
    # Items differ a lot, seeds not at all: no number of seeds helps.
    items = np.random.default_rng(0).normal(0, 3, (1, 40)) + np.zeros((3, 1))
    items += 0.2 - items.mean()
    found = one(claim(), against(8 + items, np.full((3, 40), 8.0)))
    assert found["verdict"] == "inconclusive"
    assert found["cells"][0]["seeds_to_settle"] is None
    assert "not settled by more seeds alone" in found["reason"]


def test_a_published_size_beyond_the_interval_is_not_left_open():
    seeds = np.array([[0.9], [-0.6], [0.6]]) + np.zeros((1, 40))
    scores = against(8 + seeds, np.full((3, 40), 8.0))
    near = one(claim(published={"value": 1.0, "unit": "dB"}), scores)
    far = one(claim(published={"value": 50.0, "unit": "dB"}), scores)
    assert near["verdict"] == far["verdict"] == "inconclusive"
    assert near["high"] > 1.0 and "seeds would settle it" in near["reason"]
    assert "ends short of" not in near["reason"]
    assert "ends short of" in far["reason"]
    assert "seeds would settle its direction" in far["reason"]


def test_an_arm_that_exists_once_is_paired_with_every_seed():
    base = spread(8, seed=7) + np.array([[0.0], [0.5], [2.0]])
    found = one(claim(), against(spread(9, seeds=1), base))
    assert found["seeds"] == 3
    assert found["value"] == pytest.approx(float((spread(9, seeds=1) - base).mean()), rel=1e-5)


def test_a_baseline_that_exists_once_is_paired_on_items():
    scores = against(spread(9), spread(8, seed=7, seeds=1))
    found = one(claim(), scores)
    assert (found["verdict"], found["seeds"], found["cells"][0]["items"]) == ("holds", 3, 40)


def test_only_seeds_that_both_arms_have_are_compared():
    base = rows(spread(8, seed=7, seeds=5), variant="base")
    found = one(claim(), table(rows(spread(9)), base[base["seed"] != 1]))
    assert found["seeds"] == 2


def test_a_score_without_a_condition_holds_under_every_condition():
    base = rows(spread(8, seed=7), variant="base", condition="")
    assert one(claim(), table(rows(spread(9)), base))["verdict"] == "holds"


def test_the_first_data_set_that_is_there():
    entry = claim(measure={"dataset": ["seen", "published"]})
    scores = against(spread(9), spread(8, seed=7), dataset="published")
    found = one(entry, scores, "paper")
    assert found["verdict"] == "holds"
    assert "dataset published" in found["measured"]


def test_not_worse_than_a_margin():
    near = claim(rule={"kind": "non_inferior", "margin": 0.5, "reason": "x"}, tolerance=None)
    found = one(near, against(spread(7.8), spread(8, seed=7)))
    assert found["verdict"] == "holds"
    assert found["high"] < 0
    assert one(near, against(spread(7.0), spread(8, seed=7)))["verdict"] == "fails"


SHARES = {"unit": "share"}
MARGIN = {"margin": 0.03, "reason": "x"}


def shares(kind, **changes):
    rule = {"kind": kind} | (MARGIN if kind != "better_than" else {})
    return claim(rule=rule, tolerance=None, published={"value": None, "unit": "share"}, **changes)


@pytest.mark.parametrize("kind", ["non_inferior", "equivalent"])
@pytest.mark.parametrize("clips, verdict", [(128, "holds"), (96, "inconclusive")])
def test_clips_that_are_all_right_bound_a_loss_by_their_number(kind, clips, verdict):
    """No loss in n clips is compatible with one in every n / 3.7, however many seeds saw them."""
    right = np.ones((5, clips))
    found = one(shares(kind), against(right, right, **SHARES))
    bound = 1 - 0.025 ** (1 / clips)
    assert (found["value"], found["low"], found["high"]) == pytest.approx(
        (0, -bound, bound), rel=1e-5
    )
    assert found["verdict"] == verdict
    assert f"the interval is the exact bound of {clips} items" in found["reason"]
    assert "seeds would settle" not in found["reason"]


def test_the_exact_bound_grows_with_every_clip_that_is_lost():
    full, lows = np.ones((5, 128)), []
    for lost in range(4):
        arm = full.copy()
        arm[:, :lost] = 0
        found = one(shares("non_inferior"), against(arm, full, **SHARES))
        lows.append(found["low"])
        assert found["value"] == pytest.approx(-lost / 128, abs=1e-6)
        assert ("no item tells" in found["reason"]) == (lost == 0)
    assert lows == sorted(lows, reverse=True) and len(set(lows)) == 4


def test_the_exact_bound_covers_shares_near_one():
    """Where resampling often finds nothing to resample."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        arm, base = (rng.random((1, 60)) > p for p in (0.04, 0.01))
        low, high = binomial(arm.astype(float), base.astype(float))
        covered += low <= -0.03 <= high
    assert covered >= 0.95 * 400


def test_arms_that_score_alike_everywhere_are_not_told_apart():
    same = {"measure": {"compare": "ratio"}, "published": {"value": 1.9, "unit": "×"}}
    found = one(claim(**same), against(np.ones((3, 40)), np.ones((3, 40)), **SHARES))
    assert found["verdict"] == "inconclusive"
    assert "both arms score alike on every item" in found["reason"]
    counted = {"measure": {"compare": "ratio", "items": "counted"}, "published": same["published"]}
    found = one(claim(**counted), against([[5.0]], [[5.0]]))
    assert found["verdict"] == "fails"


@pytest.mark.parametrize("value, better", [(20.0, True), (5.0, False)])
def test_an_exact_number_that_is_missed_says_on_which_side(value, better):
    size = {"metric": "size", "unit": "MB", "direction": "lower"}
    entry = claim(
        measure={"metric": "size", "compare": "speedup", "items": "counted"},
        published={"value": 10.0, "unit": "×"},
        rule={"kind": "exact"},
        tolerance={"relative": 0.1, "reason": "x"},
    )
    found = one(entry, against([[1.0]], [[value]], **size))
    assert found["verdict"] == "fails"
    assert ("and is better than it" in found["reason"]) == better


def test_to_be_better_by_more_than_a_margin_is_not_to_be_alike():
    near = claim(
        rule={"kind": "equivalent", "margin": 0.5, "reason": "x"},
        tolerance=None, published={"value": None, "unit": "dB"},
    )  # fmt: skip
    assert one(near, against(spread(8.1), spread(8, seed=7)))["verdict"] == "holds"
    above = one(near, against(spread(9.5), spread(8, seed=7)))
    assert above["verdict"] == "fails" and "all of it on the better side" in above["reason"]
    below = one(near, against(spread(6.5), spread(8, seed=7)))
    assert below["verdict"] == "fails" and "better" not in below["reason"]
    assert "alike within 0.5 dB to either side" in below["rule"]


CONVERGES = {
    "measure": {"metric": "updates", "compare": "speedup", "aggregate": "gmean"},
    "published": {"value": 36, "unit": "×"},
}


def updates(base, censored):
    key = {"metric": "updates", "unit": "updates", "direction": "lower"}
    return table(
        rows([[50.0]] * 3, **key),
        rows(
            np.reshape(base, (3, 1)), variant="base", censored=np.reshape(censored, (3, 1)), **key
        ),
    )


def test_a_factor_known_only_to_be_larger():
    found = one(claim(**CONVERGES), updates([500, 500, 500], [True, True, True]))
    assert found["verdict"] == "holds in direction"
    assert (found["value"], found["low"], found["high"]) == (10, 10, None)
    assert found["bounded"] == "at least"
    assert "only known to be at least ×10" in found["reason"]
    assert "beyond the cap" in found["reason"]


def test_a_factor_that_reaches_the_published_size_before_the_cap():
    found = one(claim(**CONVERGES), updates([1200, 1400, 1500], [False, False, True]))
    assert (found["verdict"], found["high"], found["bounded"]) == ("holds", None, "at least")
    assert "censored: the value is at least ×27" in found["reason"]


def test_nothing_censored_nothing_open():
    found = one(claim(**CONVERGES), updates([300, 400, 500], [False] * 3))
    assert (found["verdict"], found["bounded"]) == ("holds in direction", "")
    assert found["low"] < 7.83 < found["high"]


def test_a_censored_arm_of_ours_leaves_the_question_open():
    key = {"metric": "updates", "unit": "updates", "direction": "lower"}
    scores = table(
        rows([[500.0]] * 3, censored=True, **key), rows([[600.0]] * 3, variant="base", **key)
    )
    found = one(claim(**CONVERGES), scores)
    assert (found["verdict"], found["bounded"], found["low"]) == ("inconclusive", "at most", 0)
    assert found["value"] == 1.2


def test_both_arms_censored_leave_no_value():
    key = {"metric": "updates", "unit": "updates", "direction": "lower", "censored": True}
    scores = table(rows([[500.0]] * 3, **key), rows([[600.0]] * 3, variant="base", **key))
    found = one(claim(**CONVERGES), scores)
    assert (found["verdict"], found["bounded"], found["value"]) == ("inconclusive", "open", None)
    assert found["reason"] == "censored: both arms are only known to exceed the cap"


def test_a_median_that_stands_before_the_cap_is_not_censored():
    median = CONVERGES | {"measure": CONVERGES["measure"] | {"aggregate": "median"}}
    found = one(claim(**median), updates([400, 450, 500], [False, False, True]))
    assert (found["value"], found["bounded"], found["high"]) == (9, "", None)


def test_one_score_alone_has_no_interval_unless_it_is_a_count():
    scores = against([[5.0]], [[8.0]], direction="lower")
    found = one(claim(), scores)
    assert (found["verdict"], found["low"], found["high"]) == ("inconclusive", None, None)
    assert "a single score has no interval" in found["reason"]
    counted = claim(
        measure={"items": "counted", "compare": "saving"}, published={"value": 40, "unit": "%"}
    )
    found = one(counted, scores)
    assert (found["verdict"], found["low"], found["value"]) == ("holds", 37.5, 37.5)


def test_a_share_of_nothing_is_inconclusive():
    share = claim(
        measure={"compare": "share"},
        published={"value": 85, "unit": "%"},
        rule={"kind": "at_least", "bound": 85},
        tolerance={"absolute": 5, "reason": "x"},
    )
    found = one(share, against(spread(1), spread(-1, seed=7)))
    assert (found["verdict"], found["value"]) == ("inconclusive", None)
    assert "a ratio to it has no meaning" in found["reason"]


def test_a_check_is_no_claim_that_holds():
    budget = claim(
        measure={"compare": "share", "metric": "parameters", "items": "counted"},
        published={"value": 60, "unit": "%"},
        rule={"kind": "check", "must_be": "at_most", "bound": 70},
        tolerance=None,
    )
    key = {"metric": "parameters", "unit": "", "direction": "lower"}
    found = one(budget, against([[65.0], [66.0]], [[100.0]], **key))
    assert found["verdict"] == "check passed"
    assert one(budget, against([[65.0], [71.0]], [[100.0]], **key))["verdict"] == "check failed"


def test_an_exact_quantity():
    exact = claim(
        measure={"compare": "value", "baseline": None, "items": "counted"},
        published={"value": 4.65, "unit": "GMac"},
        rule={"kind": "exact"},
        tolerance={"relative": 0.01, "reason": "x"},
    )
    assert one(exact, table(rows([[4.66]], unit="GMac")))["verdict"] == "holds"
    assert one(exact, table(rows([[4.75]], unit="GMac")))["verdict"] == "fails"


def test_units_must_agree():
    scores = against(spread(9), spread(8, seed=7), unit="%")
    with pytest.raises(UserError, match="the scores are in %, published in dB"):
        one(claim(), scores)


def test_another_comparison_stands_beside_the_verdict():
    entry = claim(
        measure={"compare": "share", "also": ["difference"]},
        published={"value": 85, "unit": "%"},
        rule={"kind": "at_least", "bound": 85},
        tolerance={"absolute": 5, "reason": "x"},
    )
    cell = one(entry, against(spread(7.2), spread(8, seed=7)))["cells"][0]
    assert cell["verdict"] == "holds"
    assert cell["difference"] == pytest.approx(-0.8, abs=1e-6)
    assert cell["difference_low"] < -0.8 < cell["difference_high"]
    assert cell["difference_unit"] == "dB"


def test_a_timing_is_marked():
    fast = claim(
        measure={
            "table": "bench", "metric": "latency_ms", "compare": "speedup", "items": "repeats",
            "aggregate": "median",
        },
        published={"value": 1.1, "unit": "×"},
    )  # fmt: skip
    key = {"metric": "latency_ms", "unit": "ms", "direction": "lower"}
    rounds = np.random.default_rng(0).gamma(50, 1, (1, 6))
    bench = against(rounds, 1.2 * rounds, **key)
    found = one(fast, against(spread(9), spread(8)), bench=bench)
    assert (found["timing"], found["verdict"], found["value"]) == (True, "holds", 1.2)
    assert found["seeds"] == 1
    assert one(claim(), against(spread(9), spread(8, seed=7)))["timing"] is False
