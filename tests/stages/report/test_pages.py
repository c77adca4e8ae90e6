"""Pages and boards, made from made-up result files."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from rich.console import Console

from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.job import Inputs
from stages.report import compare, stage
from stages.report.board import print_board
from stages.report.page import write_page
from tests.jobs import for_tests
from tests.stages.report import made

ROOT = Path(__file__).resolve().parents[3]
LINKS = {"href", "src", "srcset"}


class Page(HTMLParser):
    """The elements of a page, as (tag, attributes)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))


def pages(root: Path) -> list[Path]:
    return [root / "reports/index.html", root / "reports/papers/demo.html"]


def committed() -> list[Path]:
    return [ROOT / "reports/index.html", *sorted((ROOT / "reports/papers").glob("*.html"))]


def written(root: Path) -> dict[str, bytes]:
    base = root / "reports"
    return {
        path.relative_to(base).as_posix(): path.read_bytes()
        for path in sorted(base.rglob("*"))
        if path.is_file()
    }


def test_same_results_same_bytes(site: Path, tmp_path: Path) -> None:
    """Another folder gives the same files, and none of them holds its path."""
    root = tmp_path / "elsewhere"
    shutil.copytree(site, root, ignore=shutil.ignore_patterns("reports"))
    made.dump(root / "reports/papers/demo.json", json.loads(made.verdicts_of(site)))
    write_page(root, "demo", made.DEPS, root / "reports/papers")
    compare.run(root)
    assert written(root) == written(site)
    for name, data in written(site).items():
        assert str(site).encode() not in data, name


def check_links(path: Path) -> None:
    """Every file and anchor that a page names is there, and nothing comes from elsewhere."""
    for tag, attributes in Page(path).elements:
        for link in (attributes[name] for name in LINKS & set(attributes)):
            target = urlsplit(link)
            if (tag == "a" and target.scheme == "https") or target.scheme == "data":
                continue
            assert not target.scheme and not target.netloc, f"{path.name} fetches {link}"
            file = path.parent / unquote(target.path) if target.path else path
            assert file.is_file(), f"{path.name}: {link}"
            if target.fragment and file.suffix == ".html":
                ids = [a.get("id") for _, a in Page(file).elements]
                assert target.fragment in ids, f"{path.name}: {link}"


def test_pages_are_small_and_links_lead_somewhere(site: Path) -> None:
    for path in [*pages(site), *committed()]:
        assert path.stat().st_size < 1_000_000
        check_links(path)
        style = re.search(r"<style>(.*?)</style>", path.read_text("utf-8"), re.DOTALL)
        assert style and "url(" not in style[1] and "@import" not in style[1]


def test_the_board_stands_before_the_page_does(tmp_path: Path) -> None:
    made.build(tmp_path)
    compare.run(tmp_path)
    check_links(tmp_path / "reports/index.html")
    assert "recovers says of it." in (tmp_path / "reports/index.html").read_text()


def test_pages_are_well_formed_for_every_reader(site: Path) -> None:
    for path in [*pages(site), *committed()]:
        elements = Page(path).elements
        ids = [a["id"] for _, a in elements if "id" in a]
        assert len(ids) == len(set(ids))
        named = [a["aria-labelledby"] for _, a in elements if "aria-labelledby" in a]
        assert set(named) <= set(ids)
        assert all(a.get("alt") for tag, a in elements if tag == "img")
        levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
        assert ("html", {"lang": "en"}) in elements
        assert {"skip", "legend"} <= {a.get("class") for _, a in elements}


def test_numbers_on_the_board_are_those_of_the_result_files(site: Path) -> None:
    claims = json.loads((site / "reports/claims.json").read_text())["claims"]
    assert claims == json.loads(made.verdicts_of(site))["claims"]
    for path in pages(site):
        rows = [a for _, a in Page(path).elements if "data-claim" in a]
        assert [row["data-claim"] for row in rows] == [claim["id"] for claim in claims]
        for row, claim in zip(rows, claims, strict=True):
            assert row["data-verdict"] == claim["verdict"]
            for key in ("value", "low", "high", "published"):
                shown = row[f"data-{key}"]
                assert (float(shown) if shown else None) == claim[key]


def test_everything_of_the_stages_is_shown(site: Path) -> None:
    text = pages(site)[1].read_text("utf-8")
    for part in (
        'srcset="demo/evaluate/pictures/recovery.dark.svg" media="screen and (prefers-color-scheme',
        'src="demo/evaluate/audio/method.wav"',
        'href="demo/evaluate/scores.csv"',
        'href="demo/evaluate/structure.csv"',
        "python -m stages evaluate demo",
        'tags."retort.code" = "0c0de',
        "given one teacher",
        "Profile: lab; the third net is not trained at desk.",
    ):
        assert part in text.replace("&#34;", '"'), part
    assert text.count(">timing</span>") >= 2


def test_bench_and_claims_for_programs(site: Path) -> None:
    claims = json.loads((site / "reports/claims.json").read_text())
    bench = json.loads((site / "reports/bench.json").read_text())
    assert claims["schema_version"] == bench["schema_version"] == compare.SCHEMA
    wanted = "paper id verdict value low high published unit rule seeds profile"
    assert all(set(wanted.split()) <= set(claim) for claim in claims["claims"])
    assert bench["bench"] == made.bench_rows()[0]


def test_the_stage_shows_what_its_deps_hold(site: Path, tmp_path: Path) -> None:
    node = Node("demo", "page", None, None, made.DEPS[1:], (), ())
    out = tmp_path / "out"
    out.mkdir()
    with for_tests(site, node) as job:
        stage.run(stage.Params(), Inputs(site, node), out, job)
    assert sorted(path.name for path in out.iterdir()) == ["demo", "demo.html"]
    text = (out / "demo.html").read_text("utf-8")
    assert "demo/bench/scores.csv" in text and "demo/evaluate" not in text


def test_a_bench_row_without_a_key_is_refused(tmp_path: Path) -> None:
    made.build(tmp_path)
    rows = made.bench_rows()[0]
    del rows[1]["peak_memory_mb"]
    made.dump(tmp_path / "work/demo/bench/bench.json", rows)
    with pytest.raises(ValueError, match="a row lacks peak_memory_mb"):
        write_page(tmp_path, "demo", made.DEPS, tmp_path / "reports/papers")


def test_long_tables_of_scores_are_packed(tmp_path: Path, monkeypatch: Any) -> None:
    import gzip

    monkeypatch.setattr("stages.report.page.LARGEST_CSV", 1_000)
    made.build(tmp_path)
    write_page(tmp_path, "demo", made.DEPS, tmp_path / "reports/papers")
    data = (tmp_path / "reports/papers/demo/evaluate/scores.csv.gz").read_bytes()
    assert gzip.decompress(data).startswith(b"paper,backbone,dataset,variant,condition,seed")
    assert data[4:8] == bytes(4)  # no time stamp


def test_wrong_verdicts_are_a_clear_error(tmp_path: Path) -> None:
    made.build(tmp_path)
    path = tmp_path / "reports/papers/demo.json"
    path.write_text(path.read_text().replace('"fails"', '"perhaps"'))
    with pytest.raises(UserError, match="claim 'recovers' has the unknown verdict 'perhaps'"):
        write_page(tmp_path, "demo", made.DEPS, tmp_path / "reports/papers")
    compare.run(tmp_path)  # the other papers' board must not suffer
    assert "verdicts unreadable" in (tmp_path / "reports/index.html").read_text()
    path.unlink()
    with pytest.raises(UserError, match=r"missing: demo\.json"):
        write_page(tmp_path, "demo", made.DEPS, tmp_path / "reports/papers")


def test_status_says_what_is_there(tmp_path: Path) -> None:
    made.build(tmp_path)

    def status() -> str:
        compare.run(tmp_path)
        return (tmp_path / "reports/README.md").read_text().split("`demo`: ")[1].split(",")[0]

    assert status() == "missing: prune"  # one of two arms
    made.dump(tmp_path / "receipts/demo/prune@random.json",
              {"seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_mb": 1.0})  # fmt: skip
    assert status() == "complete"
    for path in (tmp_path / "receipts/demo").iterdir():
        path.unlink()
    assert status() == "not run yet"


def test_a_paper_without_results_stays_on_the_board(tmp_path: Path) -> None:
    made.build(tmp_path)
    (tmp_path / "reports/papers/demo.json").unlink()
    shutil.rmtree(tmp_path / "receipts")
    compare.run(tmp_path)
    assert "not run yet" in (tmp_path / "reports/index.html").read_text()
    assert json.loads((tmp_path / "reports/claims.json").read_text())["claims"] == []


def test_board_in_a_terminal_and_in_markdown(site: Path) -> None:
    claims = json.loads((site / "reports/claims.json").read_text())["claims"]
    console = Console(width=120, record=True, color_system=None)
    print_board(console, claims)
    print_board(console, [])
    text = console.export_text()
    markdown = (site / "reports/README.md").read_text("utf-8")
    for claim in claims:
        assert claim["id"] in text and claim["verdict"] in text
        assert f"| {claim['verdict']} | {claim['claim']}" in markdown
    assert "0.90 to 1.70" in text and "| 0.90 to 1.70 |" in markdown
    assert "no claim has a verdict yet" in text
    assert "says of it. † | " in markdown


def test_the_board_needs_no_heavy_package(site: Path) -> None:
    code = (
        "import sys, pathlib; from stages.report import compare, board, stage\n"
        f"compare.run(pathlib.Path({str(site)!r}))\n"
        "sys.exit(str({'torch', 'pandas', 'matplotlib', 'mlflow'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() in ("", "0"), done.stderr


def test_a_table_may_stand_open_and_rest_on_no_timing(site: Path, tmp_path: Path) -> None:
    """Beside its stage's scores, or among further tables without the word that marks a timing."""
    root = tmp_path / "copy"
    shutil.copytree(site, root, ignore=shutil.ignore_patterns("reports"))
    made.dump(root / "reports/papers/demo.json", json.loads(made.verdicts_of(site)))
    bench = root / "work/demo/bench"
    listed = (
        json.loads((bench / "exhibits.json").read_text())
        if (bench / "exhibits.json").is_file()
        else []
    )
    for name, mark in (("shown", {"shown": "yes"}), ("counts", {"timing": "no"}), ("times", {})):
        (bench / f"{name}.csv").write_text("a,b\n1,2\n")
        entry = {"kind": "table", "name": name, "file": f"{name}.csv", "title": f"Table {name}"}
        listed.append(entry | {"caption": "", "alt": "", "group": ""} | mark)
    made.dump(bench / "exhibits.json", listed)
    write_page(root, "demo", made.DEPS, root / "reports/papers")
    text = (root / "reports/papers/demo.html").read_text(encoding="utf-8")
    assert text.index("<h3>Table shown</h3>") < text.index('<section id="tables"')
    assert "<summary>Table shown" not in text
    assert "<summary>Table counts</summary>" in text
    assert '<summary>Table times <span class="tag">timing</span></summary>' in text
