"""How soon a network gets somewhere: read off scores that were taken now and then."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise


def updates_to_match(
    updates: Sequence[int], scores: Sequence[float], target: float
) -> tuple[float, bool]:
    """Updates after which a learning curve first reaches `target` (higher is better).

    Between two snapshots the curve is taken for a straight line.

    Args:
        updates: at which the scores were taken, rising.
        scores: as many.
        target: the score to reach.

    Returns:
        The updates, and whether they are censored: a curve that never gets there gives its last
        update and True, which says "more than".

    Raises:
        ValueError: nothing to read, lengths differ, or the updates do not rise.
    """
    if not updates or len(updates) != len(scores):
        raise ValueError(f"{len(updates)} updates for {len(scores)} scores")
    if any(b <= a for a, b in pairwise(updates)):
        raise ValueError(f"updates must rise: {list(updates)}")
    for i, score in enumerate(scores):
        if score >= target:
            if i == 0:
                return float(updates[0]), False
            share = (target - scores[i - 1]) / (score - scores[i - 1])
            return updates[i - 1] + share * (updates[i] - updates[i - 1]), False
    return float(updates[-1]), True


def largest_common(budgets: Iterable[Collection[int]]) -> int | None:
    """The largest number that is in every collection; None where there is none."""
    sets = [set(budget) for budget in budgets]
    return max(set.intersection(*sets), default=None) if sets else None
