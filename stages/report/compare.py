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
    write_text(reports / "README.md", board.markdown(papers))
    page = render("index.html", papers=papers, counts=tally(claims))
    write_text(reports / "index.html", page)
