"""How numbers are written."""

import math

import pytest

from stages.report import numbers

THIN = numbers.THIN


@pytest.mark.parametrize(
    ("value", "unit", "low", "high", "text"),
    [
        (1.2345, "dB", 0.9, 1.7, f"1.23{THIN}dB"),
        (71.5, "%", 66.0, 77.25, f"71.5{THIN}%"),
        (-0.001, "dB", -0.4, 0.4, f"0.00{THIN}dB"),
        (-1.5, "dB", -2.0, -1.0, f"−1.50{THIN}dB"),
        (1.0849, "×", 1.05, 1.12, "×1.085"),
        (50.0, "%", 50.0, 50.0, f"50{THIN}%"),
        (12345.678, "updates", None, None, f"12{THIN}346{THIN}updates"),
        (1.23456, "1", None, None, "1.23"),
        (3.0, "dB", None, math.inf, f"3{THIN}dB"),
        (None, "dB", None, None, "–"),
        (math.nan, "dB", 0.0, 1.0, "–"),
    ],
)
def test_digits_follow_the_interval(
    value: float | None, unit: str, low: float | None, high: float | None, text: str
) -> None:
    assert numbers.quantity(value, unit, low, high) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.9, 1.7, "0.90 to 1.70"),
        (-1.25, 3.5, "−1.2 to 3.5"),
        (2.5, None, "above 2.5"),
        (-math.inf, 3.0, "below 3"),
        (None, None, ""),
        (50.0, 50.0, ""),
    ],
)
def test_interval(low: float | None, high: float | None, text: str) -> None:
    assert numbers.interval(low, high) == text


def test_published_numbers_stay_as_printed() -> None:
    assert numbers.published(85.0, "%") == f"85{THIN}%"
    assert numbers.published(1.08, "×") == "×1.08"
    assert numbers.published(None, "dB") == "–"


def test_exact_survives_the_way_through_text() -> None:
    assert float(numbers.exact(0.1 + 0.2)) == 0.1 + 0.2
    assert numbers.exact(None) == numbers.exact(math.nan) == ""


def test_sizes_durations_and_bounds() -> None:
    assert [numbers.size(n) for n in (12, 312_000, 4_100_000)] == [
        f"12{THIN}B",
        f"312{THIN}kB",
        f"4.1{THIN}MB",
    ]
    assert numbers.duration(0.42) == f"0.4{THIN}s"
    assert numbers.duration(59.6) == f"1{THIN}min 00{THIN}s"
    assert numbers.duration(7_815) == f"2{THIN}h 10{THIN}min"
    assert numbers.bounded("×4", "at least") == f"≥{THIN}×4"
    assert numbers.bounded("×4", "") == "×4"
