"""Reading "how soon" off a curve."""

import pytest

from stages.evaluate.convergence import largest_common, updates_to_match


def test_between_two_snapshots_the_curve_is_straight():
    assert updates_to_match([0, 50, 100], [0.0, 2.0, 6.0], 3.0) == (62.5, False)


def test_a_snapshot_that_hits_the_target_counts_as_it_is():
    assert updates_to_match([0, 50, 100], [0.0, 2.0, 6.0], 2.0) == (50.0, False)


def test_the_first_crossing_counts_even_if_the_curve_falls_again():
    assert updates_to_match([0, 50, 100, 150], [0.0, 4.0, 1.0, 5.0], 2.0) == (25.0, False)


def test_there_from_the_start():
    assert updates_to_match([10, 50], [3.0, 4.0], 2.0) == (10.0, False)


def test_never_reached_is_censored_at_the_last_update():
    assert updates_to_match([0, 50, 400], [0.0, 2.0, 2.5], 3.0) == (400.0, True)


@pytest.mark.parametrize("updates, scores", [([], []), ([1, 2], [0.0]), ([5, 5], [0.0, 1.0])])
def test_curves_that_cannot_be_read(updates, scores):
    with pytest.raises(ValueError):
        updates_to_match(updates, scores, 1.0)


def test_the_largest_common_budget():
    assert largest_common([{0, 100, 200}, [100, 200, 400], (200, 300, 100)]) == 200
    assert largest_common([{1}, {2}]) is None
    assert largest_common([]) is None
