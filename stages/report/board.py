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
    for paper in dict.fromkeys(claim["paper"] for claim in claims):
        own = [claim for claim in claims if claim["paper"] == paper]
        title = f"{paper}: {_summary(own)}"
        shown = Table(title=title, title_justify="left", pad_edge=False)
        shown.add_column("claim", min_width=14, overflow="fold")
        shown.add_column("verdict")
        for name in ("measured", "95 % interval", "published"):
            shown.add_column(name, justify="right", no_wrap=True)
        for claim in own:
            verdict = Text(claim["verdict"], style=_COLOURS[claim["verdict"]])
            shown.add_row(Text(claim["id"]), verdict, *_numbers(claim))
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
