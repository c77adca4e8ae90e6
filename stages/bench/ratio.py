"""How many times the processor time of one piece of work another one takes.

Both take turns in one process, so that what slows the machine slows both; each turn gives a ratio.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Ratio:
    """
    Attributes:
        plain, work: median milliseconds of the process's processor time.
        values: work / plain of each turn.
    """

    plain: float
    work: float
    values: tuple[float, ...]

    @property
    def value(self) -> float:
        return median(self.values)


def measure(plain: Callable[[], object], work: Callable[[], object], turns: int) -> Ratio:
    """Let both take turns, after one round that is not counted.

    Args:
        turns: rounds that count.

    Raises:
        ValueError: `turns` is below one.
    """
    if turns < 1:
        raise ValueError(f"{turns} turns give no ratio")
    pairs = [(_spent(plain), _spent(work)) for _ in range(turns + 1)][1:]
    return Ratio(
        plain=1e3 * median(first for first, _ in pairs),
        work=1e3 * median(second for _, second in pairs),
        values=tuple(second / first for first, second in pairs),
    )


def _spent(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun
