"""The claims board for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stages.report import numbers
from stages.report.facts import READING, tally

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {
    "holds": "bold blue",
    "holds in direction": "cyan",
    "fails": "bold red",
    "inconclusive": "yellow",
    "not testable here": "dim",
    "check passed": "green",
    "check failed": "bold red",
}


def _numbers(claim: dict[str, Any]) -> tuple[str, str, str]:
    """Value, interval and published value as text."""
    value, low, high = claim["value"], claim["low"], claim["high"]
    return (
        numbers.bounded(numbers.quantity(value, claim["unit"], low, high), claim["bounded"]),
        numbers.interval(low, high),
        numbers.published(claim["published"], claim["unit"]),
    )


def print_board(console: Console, claims: list[dict[str, Any]]) -> None:
    """Print the claims as a table, one row a claim; says so when there are none."""
    from rich.table import Table
    from rich.text import Text

    if not claims:
        console.print("no claim has a verdict yet")
        return
    shown = Table(title=_summary(claims), title_justify="left", pad_edge=False)
    for name, how in (("paper", "left"), ("claim", "left"), ("verdict", "left")):
        shown.add_column(name, justify=how, no_wrap=name != "claim")  # type: ignore[arg-type]
    for name in ("measured", "95 % interval", "published"):
        shown.add_column(name, justify="right", no_wrap=True)
    for i, claim in enumerate(claims):
        verdict = Text(claim["verdict"], style=_COLOURS[claim["verdict"]])
        last = i + 1 == len(claims) or claims[i + 1]["paper"] != claim["paper"]
        first = i == 0 or claims[i - 1]["paper"] != claim["paper"]
        name = claim["paper"] if first else ""
        shown.add_row(name, Text(claim["id"]), verdict, *_numbers(claim), end_section=last)
    console.print(shown)


def _summary(claims: Iterable[dict[str, Any]]) -> str:
    counts = tally(claims)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def markdown(papers: list[dict[str, Any]]) -> str:
    """The board as Markdown, for the project's README.

    Args:
        papers: as `stages.report.index.read_papers` gives them.
    """
    lines = ["# Claims board", ""]
    claims = [claim for paper in papers for claim in paper["claims"]]
    lines += [_summary(claims) + "." if claims else "No paper has results yet.", ""]
    for paper in papers:
        title = _cell(paper["title"])
        head = f"[{title}]({paper['page']})" if paper["page"] else title
        profile = f", profile {paper['profile']}" if paper["profile"] else ""
        lines += [f"## {head}", "", f"`{paper['name']}`: {paper['status']}{profile}.", ""]
        if paper["claims"]:
            lines += ["| verdict | claim | measured | 95 % interval | published |"]
            lines += ["|---|---|--:|--:|--:|"]
            lines += [_row(claim) for claim in paper["claims"]] + [""]
    lines += ["## How to read a verdict", ""]
    lines += [f"- **{verdict}**: {text}" for verdict, text in READING.items()]
    lines += ["", "† rests on a measured time or memory, and differs between machines."]
    return "\n".join(lines) + "\n"


def _row(claim: dict[str, Any]) -> str:
    mark = " †" if claim["timing"] else ""
    text = _cell(claim["claim"]) + mark
    value, interval, published = _numbers(claim)
    value += f" ({claim['headline']})" if claim["headline"] else ""
    return f"| {claim['verdict']} | {text} | {value} | {interval} | {published} |"


def _cell(text: str) -> str:
    """Text that cannot break out of a Markdown table's cell."""
    return " ".join(text.split()).replace("|", "\\|")
