"""How numbers are written: as many digits as their interval supports, and a unit."""

from __future__ import annotations

import math
from collections.abc import Iterable

NONE = "–"  # what stands where there is no number
THIN = "\u202f"  # narrow space that does not break: between digits, and before a unit
_TIMES = ("x", "×", "ratio", "times")


def known(value: float | None) -> bool:
    """Whether there is a number: not None, not NaN."""
    return value is not None and not math.isnan(value)


def exact(value: float | None) -> str:
    """Full precision, for programs; "" where there is no number."""
    return repr(float(value)) if value is not None and known(value) else ""


def decimals(low: float | None, high: float | None) -> int | None:
    """Decimals to show, so that the last is 1/20 to 1/2 of the interval; None without interval."""
    if low is None or high is None or not math.isfinite(high - low) or high <= low:
        return None
    return min(max(math.ceil(1.3 - math.log10(high - low)), 0), 4)


def number(value: float | None, places: int | None = None, digits: int = 6) -> str:
    """A number for people: true minus sign, groups of three digits, a dash for none.

    Without `places` it has at most `digits` significant digits, but always all before the point.
    """
    if value is None or not known(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if places is not None:
        text = f"{value:.{places}f}"
    else:
        size = math.floor(math.log10(abs(value))) if value else 0
        text = f"{value:.{max(digits - 1 - size, 0)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    whole, dot, rest = text.partition(".")
    if len(whole.lstrip("-")) > 4:
        whole = f"{int(whole):,}".replace(",", THIN)
    if not any(digit in "123456789" for digit in text):
        whole = whole.lstrip("-")  # never "−0"
    return (whole + dot + rest).replace("-", "−")


def quantity(
    value: float | None, unit: str, low: float | None = None, high: float | None = None
) -> str:
    """A measured number with its unit, rounded as its interval [low, high] allows."""
    if value is None or not known(value):
        return NONE
    return with_unit(number(value, decimals(low, high), digits=3), unit)


def bounded(text: str, bound: str) -> str:
    """Mark a number that is only known as a bound: "at least" or "at most" what is shown."""
    return {"at least": f"≥{THIN}", "at most": f"≤{THIN}"}.get(bound, "") + text


def published(value: float | None, unit: str) -> str:
    """A published number with its unit, in the digits it was published with."""
    return with_unit(number(value), unit) if known(value) else NONE


def interval(low: float | None, high: float | None, places: int | None = None) -> str:
    """The interval as "low to high", in the digits of its value; "" where there is none.

    An end that nothing bounds (missing or infinite) is left open: "above 3.1".
    """
    ends = [x for x in (low, high) if x is not None and math.isfinite(x)]
    if not ends or low == high:
        return ""
    if len(ends) == 1:
        return ("above " if ends[0] == low else "below ") + number(ends[0], digits=3)
    places = decimals(*ends) if places is None else places
    return f"{number(ends[0], places)} to {number(ends[1], places)}"


def with_unit(text: str, unit: str) -> str:
    """Put the unit where it belongs: "×1.08", "85 %", "9.1 dB"."""
    if unit in _TIMES:
        return f"×{text}"
    return f"{text}{THIN}{unit}" if unit and unit != "1" else text


def size(count: int) -> str:
    """Bytes for people."""
    if count < 1000:
        return f"{count}{THIN}B"
    return with_unit(f"{count / 1e3:.0f}", "kB") if count < 1e6 else f"{count / 1e6:.1f}{THIN}MB"


def duration(seconds: float) -> str:
    """Seconds for people: "48 s", "6 min 05 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN}s" if seconds >= 1 else f"{seconds:.1f}{THIN}s"
    if whole < 3600:
        return f"{whole // 60}{THIN}min {whole % 60:02d}{THIN}s"
    return f"{whole // 3600}{THIN}h {whole % 3600 // 60:02d}{THIN}min"


def counted(count: int, noun: str) -> str:
    """A count with its noun: "1 seed", "3 seeds"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def places_for(values: Iterable[float]) -> int:
    """Decimals for a column: three significant digits of its largest number."""
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    return min(max(2 - math.floor(math.log10(largest)), 0), 4) if largest else 0
