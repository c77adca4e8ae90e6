"""Templates: one environment for every page, everything inlined, nothing fetched."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.report import facts, numbers, whisker

if TYPE_CHECKING:
    import jinja2

_FOLDER = Path(__file__).parent / "templates"


def _sentence(text: str) -> str:
    """Begin with a capital and end with a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "exact": numbers.exact,
        "number": numbers.number,
        "quantity": numbers.quantity,
        "published": numbers.published,
        "size": numbers.size,
        "duration": numbers.duration,
        "known": numbers.known,
        "counted": numbers.counted,
        "bounded": numbers.bounded,
        "sentence": _sentence,
    }
    made.globals |= {
        "css": (_FOLDER / "style.css").read_text(encoding="utf-8"),
        "verdict_class": facts.VERDICTS,
        "reading": facts.READING,
        "interval": numbers.interval,
        "whisker": whisker.whisker,
        "NONE": numbers.NONE,
    }
    return made


def render(template: str, **values: Any) -> str:
    """Fill a template; text is escaped, and a name that is missing is an error."""
    return _environment().get_template(template).render(**values)
