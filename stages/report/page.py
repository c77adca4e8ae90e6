"""The page of one paper, with the pictures, sounds and tables that lie beside it."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.core.files import read_json, write_bytes, write_text
from stages.report import card, facts, tables
from stages.report.comparison import comparisons
from stages.report.facts import Stage
from stages.report.site import render

LARGEST_CSV = 2_000_000  # bytes; a longer table of scores is packed
_SVG_SIZE = re.compile(rb'<svg[^>]* width="([\d.]+)pt" height="([\d.]+)pt"')
_BENCH_KEYS = {
    *("paper", "variant", "runtime", "weight_bits", "activation_bits", "threads", "shape"),
    *("latency_ms", "baseline_latency_ms", "size_mb", "baseline_size_mb", "peak_memory_mb"),
    *("macs", "device"),
}


def write_page(root: Path, paper: str, deps: Iterable[str], out: Path) -> None:
    """Write `<paper>.html`, and what it links to into `<paper>/`, into the folder `out`.

    Args:
        root: the project's root.
        paper: name of the paper's folder.
        deps: the paths from the root whose results are shown, as dvc.yaml lists them.
        out: where the page goes; links assume that it ends up in reports/papers/.

    Raises:
        UserError: the verdicts are missing, or the card has no title.
    """
    beside = out / paper
    beside.mkdir(parents=True, exist_ok=True)
    verdicts = facts.read_verdicts(root / "reports/papers" / f"{paper}.json")
    claims = verdicts["claims"]
    stages = facts.read_stages(root, deps)
    pictures = [_picture(s, e, beside) for s, e in _exhibits(stages, "picture")]
    sounds = _sounds(stages, beside)
    shown = [_table(s, e, beside) for s, e in _exhibits(stages, "table")]
    scored = [
        _scored(stage, beside) for stage in stages if (stage.folder / "scores.parquet").is_file()
    ]
    sections = [("claims", "Claims")]
    sections += [("figures", "Figures")] if pictures else []
    # Some tables stand open beside the scores of their stage.
    for part in scored:
        part["tables"] = [t for t in shown if t["shown"] and t["stage"] is part["stage"]]
    shown = [t for t in shown if not any(t in part["tables"] for part in scored)]
    sections += [(part["id"], part["title"]) for part in scored]
    sections += [("audio", "Listen")] if sounds else []
    sections += [("tables", "Further tables")] if shown else []
    sections += [("card", "The paper’s card"), ("origin", "Where it all comes from")]
    page = render(
        "paper.html",
        paper=paper,
        card=card.read(root / "pipelines" / paper / "README.md"),
        profile=verdicts["profile"],
        claims=claims,
        counts=facts.tally(claims),
        cell_tables={claim["id"]: facts.cell_columns(claim) for claim in claims},
        judged=" and ".join(part["stage"].name for part in scored) or "no stage",
        comparisons=scored,
        pictures=pictures,
        sounds=sounds,
        tables=shown,
        stages=stages,
        sections=sections,
    )
    write_text(out / f"{paper}.html", page)


def _exhibits(stages: list[Stage], kind: str) -> list[tuple[Stage, dict[str, str]]]:
    return [(s, entry) for s in stages for entry in s.exhibits if entry["kind"] == kind]


def _copied(stage: Stage, file: str, beside: Path) -> str:
    """Copy a file of a stage beside the page; give its link."""
    target = beside / stage.name / file
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(stage.folder / file, target)
    return f"{beside.name}/{stage.name}/{file}"


def _anchor(stage: Stage, entry: dict[str, str]) -> str:
    return f"{stage.name}-{entry['name']}"


def _picture(stage: Stage, entry: dict[str, str], beside: Path) -> dict[str, Any]:
    light = entry["file"]
    dark = light.removesuffix(".svg") + ".dark.svg"
    found = _SVG_SIZE.search((stage.folder / light).read_bytes()[:2000])
    width, height = (round(float(pt) * 4 / 3) for pt in found.groups()) if found else (640, 360)
    return entry | {
        "id": _anchor(stage, entry),
        "file": _copied(stage, light, beside),
        "dark": _copied(stage, dark, beside),
        "width": width,
        "height": height,
        "stage": stage,
    }


def _sounds(stages: list[Stage], beside: Path) -> list[dict[str, Any]]:
    """Audio clips by group, groups in the order of their first clip."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for stage, entry in _exhibits(stages, "audio"):
        clip = entry | {"id": _anchor(stage, entry), "file": _copied(stage, entry["file"], beside)}
        new = {"title": entry["group"] or entry["title"], "stage": stage, "clips": []}
        groups.setdefault((stage.name, entry["group"]), new)["clips"].append(clip)
    return list(groups.values())


def _table(stage: Stage, entry: dict[str, str], beside: Path) -> dict[str, Any]:
    return entry | {
        "file": _copied(stage, entry["file"], beside),
        "file_name": Path(entry["file"]).name,
        "table": tables.from_csv(stage.folder / entry["file"]),
        "stage": stage,
        "timed": stage.timed and entry.get("timing") != "no",
        "shown": entry.get("shown") == "yes",
    }


def _scored(stage: Stage, beside: Path) -> dict[str, Any]:
    """A stage's table of scores: for people in tables with intervals, in full as CSV."""
    from stages.core.results import read_scores

    scores = read_scores(stage.folder / "scores.parquet")
    data = scores.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()
    name = "scores.csv"
    if len(data) > LARGEST_CSV:
        name, data = name + ".gz", gzip.compress(data, mtime=0)
    write_bytes(beside / stage.name / name, data)
    made = {
        "id": stage.name,
        "stage": stage,
        "groups": comparisons(scores, repeats=stage.timed),
        "csv": f"{beside.name}/{stage.name}/{name}",
        "csv_name": name,
        "csv_size": len(data),
        "rows": len(scores),
        "bench": None,
    }
    if not stage.timed:
        made["title"] = "Comparison"
        made["how"] = (
            "Mean over seeds and test items, below it the 95 % interval. The arms of a net are "
            "ranked by the last column that most of them have; those without it come first."
        )
        return made
    made["title"] = "On the edge"
    made["how"] = (
        "Median of repeated measurements on one machine that did nothing else; times and memory "
        "differ between machines."
    )
    rows = read_json(stage.folder / "bench.json")
    for row in rows:
        if missing := _BENCH_KEYS - set(row):
            raise ValueError(f"bench.json: a row lacks {', '.join(sorted(missing))}")
    made["bench"] = tables.bench(rows)
    _copied(stage, "bench.json", beside)
    return made
