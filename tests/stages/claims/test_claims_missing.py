"""What a claim names and the scores have not: left out by the profile, or a mistake."""

import pytest

from stages.core.errors import UserError
from tests.stages.claims.claimed import LAB, against, claim, one, rows, spread, table


def test_not_testable_here():
    found = one(claim(needs=LAB), table(rows(spread(9))))
    assert found["verdict"] == "not testable here"
    assert found["reason"] == "profile: lab; the third net is trained there"
    assert (found["needs"], found["profile"]) == ("lab", "desk")
    assert (found["value"], found["seeds"], found["published"]) == (None, 0, 1.0)


def test_no_profile_can_test_it():
    needs = {"profile": "none", "reason": "the method is not described"}
    found = one(claim(needs=needs), table(rows(spread(9))), "lab")
    assert found["reason"] == "no profile; the method is not described"


def test_a_data_set_that_somebody_replaced_by_another_is_not_testable():
    scores = against(spread(9), spread(8, seed=7))
    found = one(claim(measure={"dataset": "other"}), scores)
    assert (found["verdict"], found["needs"]) == ("not testable here", "desk")
    assert "dataset 'other' is not" in found["reason"] and "there: 'seen'" in found["reason"]


@pytest.mark.parametrize(
    "measure, named",
    [
        ({"metric": "typo"}, r"metric 'typo' is not in the scores of 'evaluate'; there: 'score'"),
        ({"variant": "typo"}, r"variant 'typo' .* metric 'score'; there: 'base', 'ours'"),
        ({"baseline": "typo"}, r"variant 'typo'"),
        ({"backbone": "typo"}, r"backbone 'typo' .* there: 'net'"),
        ({"condition": "typo"}, r"condition 'typo' .* there: 'final'"),
        ({"table": "bench"}, r"the table 'bench' is not among the results; there: 'evaluate'"),
    ],
)
def test_a_name_that_is_not_there_is_an_error_that_says_what_is(measure, named):
    scores = against(spread(9), spread(8, seed=7))
    with pytest.raises(UserError, match=named) as error:
        one(claim(measure=measure), scores)
    assert "claim 'better'" in str(error.value)
    assert "needs" in str(error.value)
    # A smaller profile may leave out what desk has; the published data sets are the user's.
    for profile in ("smoke", "paper"):
        found = one(claim(measure=measure), scores, profile)
        assert (found["verdict"], found["needs"]) == ("not testable here", "desk")


def test_a_profile_that_should_have_it_must_have_it():
    scores = table(rows(spread(9)))
    with pytest.raises(UserError, match="variant 'base'"):
        one(claim(needs=LAB), scores, "lab")
    paper = {"profile": "paper", "reason": "the data set must be given"}
    assert one(claim(needs=paper), scores, "paper")["verdict"] == "not testable here"


def test_rows_that_a_claim_leaves_open():
    scores = table(
        against(spread(9), spread(8, seed=7)), against(spread(9), spread(8), dataset="unseen")
    )
    with pytest.raises(UserError, match="name one dataset of 'seen', 'unseen'"):
        one(claim(measure={"dataset": None}), scores)


def test_arms_must_be_scored_on_the_same_items():
    scores = table(rows(spread(9)), rows(spread(8, items=30), variant="base"))
    with pytest.raises(UserError, match="not scored on the same items"):
        one(claim(), scores)
    lacking = against(spread(9), spread(8, seed=7)).iloc[1:]
    with pytest.raises(UserError, match="some seeds lack some test items"):
        one(claim(), lacking)


def test_seeds_without_a_pair():
    base = rows(spread(8, seeds=2), variant="base")
    base["seed"] += 7
    with pytest.raises(UserError, match="no pair among them"):
        one(claim(), table(rows(spread(9)), base))
