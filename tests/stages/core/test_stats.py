"""Intervals: against scipy where it has the same, and by simulation where it has not."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from stages.core import stats


def arms(seeds=3, items=60, shift=1.0, seed=0):
    """Scores of an arm and its baseline that share what makes an item hard."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(8, 3, (1, items))
    b = hard + rng.normal(0, 1, (seeds, items))
    return b + shift + rng.normal(0, 0.5, (seeds, items)), b


def close(found, wanted, share=0.06):
    """Whether two intervals agree to a share of their width (both are drawn at random)."""
    width = wanted[1] - wanted[0]
    return abs(found[0] - wanted[0]) < share * width and abs(found[1] - wanted[1]) < share * width


# --------------------------------------------------------------------- aggregates, comparisons
def test_aggregates_are_numpys_and_scipys():
    x = np.random.default_rng(0).gamma(2.0, size=(4, 7))
    assert stats.aggregate(x, "mean") == pytest.approx(x.mean())
    assert stats.aggregate(x, "median") == pytest.approx(np.median(x))
    assert stats.aggregate(x, "gmean") == pytest.approx(scipy_stats.gmean(x, axis=None))


@pytest.mark.parametrize(
    "kind, wanted",
    [("difference", -2), ("ratio", 0.75), ("speedup", 4 / 3), ("share", 75), ("saving", 25)],
)
def test_comparisons(kind, wanted):
    a, b = np.full((2, 3), 6.0), np.full((2, 3), 8.0)
    assert stats.estimate(a, b, "mean", kind) == pytest.approx(wanted)
    assert stats.estimate(a, a, "mean", kind) == stats.NEUTRAL[kind]


@pytest.mark.parametrize("kind", ["ratio", "speedup", "share", "saving"])
def test_a_ratio_to_nothing_is_no_number(kind):
    a, b = np.ones((2, 3)), np.full((2, 3), -1.0)
    if kind == "speedup":
        a, b = b, a
    assert math.isnan(stats.estimate(a, b, "mean", kind))


def test_a_comparison_needs_its_baseline_and_a_value_takes_none():
    a = np.ones((2, 3))
    with pytest.raises(ValueError, match="needs a baseline"):
        stats.estimate(a, None, "mean", "difference")
    with pytest.raises(ValueError, match="takes no baseline"):
        stats.estimate(a, a, "mean", "value")


# --------------------------------------------------------------------- the bootstrap
@pytest.mark.parametrize("how", ["mean", "median"])
@pytest.mark.parametrize("kind", ["difference", "ratio"])
def test_one_seed_is_scipys_paired_bootstrap_over_items(how, kind):
    a, b = arms(seeds=1)
    function = {"mean": np.mean, "median": np.median}[how]

    def statistic(x, y, axis):
        first, second = function(x, axis=axis), function(y, axis=axis)
        return first - second if kind == "difference" else first / second

    wanted = scipy_stats.bootstrap(
        (a[0], b[0]), statistic, paired=True, method="percentile", n_resamples=8_000, rng=1
    ).confidence_interval
    draws = stats.bootstrap(a, b, how, kind, resamples=8_000)
    assert close(stats.percentile_interval(draws), wanted)


def test_one_item_is_scipys_bootstrap_over_seeds():
    x = np.random.default_rng(3).gamma(4.0, size=(12, 1))
    wanted = scipy_stats.bootstrap(
        (x[:, 0],), scipy_stats.gmean, method="percentile", n_resamples=8_000, rng=1
    ).confidence_interval
    draws = stats.bootstrap(x, None, "gmean", "value", resamples=8_000)
    assert close(stats.percentile_interval(draws), wanted)


def test_same_seed_same_draws():
    a, b = arms()
    draws = [stats.bootstrap(a, b, "mean", "difference", seed=s) for s in (0, 0, 1)]
    assert (draws[0] == draws[1]).all()
    assert not (draws[0] == draws[2]).all()


def test_more_seeds_on_the_same_items_do_not_make_items_certain():
    """Ten seeds that agree leave the interval of one: the items are the same ten times."""
    a, b = arms(seeds=1)
    one = stats.percentile_interval(stats.bootstrap(a, b, "mean", "difference"))
    ten = np.repeat(a, 10, axis=0), np.repeat(b, 10, axis=0)
    assert close(stats.percentile_interval(stats.bootstrap(*ten, "mean", "difference")), one)
    nested = stats.percentile_interval(stats.bootstrap(*ten, "mean", "difference", "repeats"))
    assert nested[1] - nested[0] < 0.5 * (one[1] - one[0])


def test_a_single_baseline_is_paired_on_items():
    a, b = arms(seeds=4)
    repeated = np.repeat(b[:1], 4, axis=0)
    found = stats.interval(a, b[:1], "mean", "difference")
    wanted = stats.interval(a, repeated, "mean", "difference")
    assert (found.value, found.low, found.high) == pytest.approx(
        (wanted.value, wanted.low, wanted.high)
    )
    # Unpaired, the spread of the items (3 dB) would stand in the interval twice.
    unpaired = stats.interval(a[:, ::-1], b[:1], "mean", "difference")
    assert found.high - found.low < 0.7 * (unpaired.high - unpaired.low)


def test_seeds_kept_as_they_are_leave_the_items_part():
    a = np.array([[1.0], [2.0], [4.0]]) + np.zeros((1, 50))
    assert stats.bootstrap(a, None, "mean", "value", draw_seeds=False).std() < 1e-12
    assert stats.bootstrap(a, None, "mean", "value").std() > 0.5


@pytest.mark.parametrize("shape", [(2, 60), (3, 59)])
def test_arrays_that_cannot_be_paired(shape):
    a, _ = arms()
    with pytest.raises(ValueError, match="cannot be paired"):
        stats.bootstrap(a, np.ones(shape), "mean", "difference")


@settings(max_examples=25, deadline=None)
@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_intervals_move_and_stretch_with_the_scores(shift, scale):
    a, b = arms(items=10)
    found = stats.interval(a, b, "mean", "difference")
    moved = stats.interval(scale * a + shift, scale * b + shift, "mean", "difference")
    wanted = [scale * x for x in (found.value, found.low, found.high)]
    assert [moved.value, moved.low, moved.high] == pytest.approx(wanted, rel=1e-6, abs=1e-6)


# --------------------------------------------------------------------- the t interval
def test_t_is_scipys():
    x = np.array([1.0, 2.5, 4.0])
    wanted = scipy_stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert stats.t_interval(x) == pytest.approx(tuple(wanted))
    logs = scipy_stats.ttest_1samp(np.log(x), 0).confidence_interval(0.95)
    assert stats.t_interval(x, log=True) == pytest.approx(tuple(np.exp(logs)))


def test_with_few_seeds_the_wider_of_bootstrap_and_t():
    a = np.array([[1.0], [2.0], [3.0]]) + np.zeros((1, 20))  # all spread is between seeds
    found = stats.interval(a, None, "mean", "value")
    assert (found.low, found.high) == pytest.approx(stats.t_interval(a[:, 0]))
    rng = np.random.default_rng(0)
    a = np.repeat(rng.normal(size=(1, 20)), 3, axis=0)  # all spread is between items
    found = stats.interval(a, None, "mean", "value")
    draws = stats.bootstrap(a, None, "mean", "value")
    assert (found.low, found.high) == stats.percentile_interval(draws)


def test_rounds_of_measurement_stand_in_for_seeds():
    rng = np.random.default_rng(0)
    slow = rng.gamma(50, size=(1, 5))  # what slows a round slows both arms
    a, b = slow * rng.normal(1, 0.01, (1, 5)), 1.2 * slow * rng.normal(1, 0.01, (1, 5))
    found = stats.interval(a, b, "median", "speedup", "repeats")
    low, high = stats.t_interval((b / a)[0], log=True, centre=found.value)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert 1.1 < found.low < 1.2 < found.high < 1.3


def test_a_single_score_has_no_interval():
    found = stats.interval(np.ones((1, 1)), None, "mean", "value")
    assert (found.value, found.low, found.high) == (1.0, -math.inf, math.inf)


def test_a_ratio_to_something_around_zero_is_unbounded():
    a, b = np.ones((3, 20)), np.random.default_rng(0).normal(0.05, 1, (3, 20))
    found = stats.interval(a, b, "mean", "ratio")
    assert (found.low, found.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("seeds", [3, 5, 12])
@pytest.mark.parametrize(
    "between_seeds, between_items, both",
    [(0.5, 0.0, 0.0), (0.0, 2.0, 0.3), (0.3, 1.9, 0.5)],
    ids=["seeds", "items", "both"],
)
def test_coverage(seeds, between_seeds, between_items, both):
    """95 % intervals hold the truth in nearly 95 % of simulated studies, whatever varies.

    400 studies know the share to 1.1 points. With seeds alone the bootstrap by itself holds it in
    75 % for three seeds and 85 % for five.
    """
    rng, studies, items, truth = np.random.default_rng(5), 400, 40, 1.0
    held = alone = 0
    for study in range(studies):
        effect = truth + rng.normal(0, between_seeds, (seeds, 1)) + rng.normal(0, both, (seeds, 1))
        effect = effect + rng.normal(0, between_items, (1, items))
        b = rng.normal(5, 3, (seeds, items))
        draws = stats.bootstrap(b + effect, b, "mean", "difference", resamples=400, seed=study)
        each = stats.per_seed(b + effect, b, "mean", "difference")
        found = stats.wider(each, draws, float(each.mean()), "difference")
        held += found.low <= truth <= found.high
        low, high = stats.percentile_interval(draws)
        alone += low <= truth <= high
    assert 0.915 <= held / studies <= 0.995
    if between_items == 0 and seeds <= 5:
        assert alone / studies < 0.90


# --------------------------------------------------------------------- censoring
def test_a_censored_numerator_leaves_a_lower_bound():
    ours, scratch = np.full((3, 1), 50.0), np.array([[300.0], [500.0], [500.0]])
    cut = np.array([[False], [True], [True]])
    least, most = stats.extremes(ours, scratch, np.zeros((3, 1), bool), cut, "speedup")
    low = stats.interval(*least, "gmean", "speedup")
    high = stats.interval(*most, "gmean", "speedup")
    assert low == stats.interval(ours, scratch, "gmean", "speedup")
    assert low.value == pytest.approx((6 * 10 * 10) ** (1 / 3))
    assert (high.value, high.high) == (math.inf, math.inf)


def test_a_censored_denominator_leaves_an_upper_bound():
    a, b, cut = np.full((2, 1), 5.0), np.full((2, 1), 10.0), np.ones((2, 1), bool)
    least, most = stats.extremes(a, b, ~cut, cut, "ratio")
    assert stats.estimate(*least, "mean", "ratio") == 0
    assert stats.estimate(*most, "mean", "ratio") == 0.5


def test_a_median_can_stand_before_the_cap():
    a = np.array([[100.0], [200.0], [500.0]])
    cut = np.array([[False], [False], [True]])
    least, most = stats.extremes(a, None, cut, cut, "value")
    assert stats.estimate(*least, "median", "value") == 200
    assert stats.estimate(*most, "median", "value") == 200


# --------------------------------------------------------------------- how many seeds
def test_seeds_for_width_is_the_first_that_reaches_it():
    n = stats.seeds_for_width(1.0, 0.5)

    def half(count):
        return scipy_stats.t.ppf(0.975, count - 1) / math.sqrt(count)

    assert half(n) <= 0.5 < half(n - 1)
    assert stats.seeds_for_width(1.0, 0.5, items_sd=0.2) > n
    assert stats.seeds_for_width(1.0, 0.5, items_sd=0.3) is None  # test items are what is missing


def test_seeds_to_settle_has_the_power_that_scipy_simulates():
    n = stats.seeds_to_settle(1.0, 0.8)
    rng = np.random.default_rng(0)

    def power(count):
        def drawn(size):
            return rng.normal(0.8, 1.0, size)

        def test(x, axis):
            return scipy_stats.ttest_1samp(x, 0, axis=axis)

        return scipy_stats.power(test, drawn, count, significance=0.05, n_resamples=20_000).power

    assert power(n) >= 0.79
    assert power(n - 2) < 0.80


def test_what_no_number_of_seeds_settles():
    assert stats.seeds_to_settle(1.0, 0.0) is None
    assert stats.seeds_to_settle(1.0, 0.001) is None
    assert stats.seeds_to_settle(0.1, 0.5, items_sd=0.4) is None


def test_what_two_seeds_settle():
    assert stats.seeds_to_settle(0.0, 0.5) == 2
    assert stats.seeds_to_settle(1e-17, 0.5) == 2
