"""The board across papers: `reports/index.html`, `claims.json`, `bench.json` and `README.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.core.files import read_json, write_json, write_text
from stages.report import board, index
from stages.report.facts import tally
from stages.report.site import render

SCHEMA = "1.0"
"""Version of claims.json and bench.json; the first number rises when a reader would break."""
MARKS = ("<!-- claims board -->", "<!-- /claims board -->")
"""Between these the project's README holds the board."""


def run(root: Path) -> None:
    """Bring the board up to date from the papers' results that are there; cheap, no torch.

    Args:
        root: the project's root; writes into its `reports/`.
    """
    reports = root / "reports"
    papers = index.read_papers(root)
    claims = [claim for paper in papers for claim in paper["claims"]]
    write_json(reports / "claims.json", {"schema_version": SCHEMA, "claims": claims})
    bench: list[dict[str, Any]] = []
    for paper in papers:
        path = reports / "papers" / paper["name"] / "bench/bench.json"
        bench += read_json(path) if path.is_file() else []
    write_json(reports / "bench.json", {"schema_version": SCHEMA, "bench": bench})
    text = board.markdown(papers)
    write_text(reports / "README.md", text)
    _embed(root / "README.md", text)
    shared = index.read_foundations(root)
    page = render("index.html", papers=papers, foundations=shared, counts=tally(claims))
    write_text(reports / "index.html", page)


def _embed(readme: Path, text: str) -> None:
    """Put the board between the marks in the project's README, its links seen from there."""
    if not readme.is_file():
        return
    old = readme.read_text(encoding="utf-8")
    before, start, rest = old.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if end:
        body = text.split("\n## How to read a verdict")[0].split("\n", 1)[1]
        body = body.replace("\n## ", "\n### ").replace("](papers/", "](reports/papers/")
        note = "† rests on a measured time or memory."
        new = f"{before}{start}\n{body.strip()}\n\n{note}\n{end}{after}"
        if new != old:
            write_text(readme, new)
