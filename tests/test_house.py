"""The rules that keep the house in order, walked over every paper there is."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pandas
import pytest
import yaml

from stages.claims.model import load
from stages.core import dag, door, repro
from stages.core.params import build, lookup, read_yaml, tracked_keys
from stages.core.profiles import overlaid, overlay_path
from stages.prepare import datalock
from tests.imports import closure, imported

ROOT = Path(__file__).resolve().parent.parent
VALUES = read_yaml(ROOT / "params.yaml")
PAPERS = dag.papers(ROOT)
NODES = [node for paper in PAPERS for node in dag.nodes(ROOT, paper, VALUES)]
PARTS = ("README.md", "dvc.yaml", "claims.yaml", "evaluate.py", "bench.py", "smoke.yaml",
         "lab.yaml", "paper.yaml")  # fmt: skip
LENT = ("prepare", "teach")
"""Stages that a paper has itself, or reads from a foundation."""
KEYS = ["cmd", "wdir", "deps", "params", "outs", "metrics", "plots", "meta"]
# Every import runs these two, which hold a docstring and nothing else.
BARE = {ROOT / "stages/__init__.py", ROOT / "pipelines/__init__.py"}


def source(node: dag.Node) -> Path:
    if node.stage in dag.REPORTED:
        return ROOT / (dag.REPORTED[node.stage].replace(".", "/") + ".py")
    return ROOT / "pipelines" / node.paper / f"{node.stage}.py"


def ids(node: dag.Node) -> str:
    return f"{node.paper}:{node.name}"


def only_docstring(path: Path) -> bool:
    return all(isinstance(s, ast.Expr) for s in ast.parse(path.read_text()).body)


def test_there_are_papers() -> None:
    assert "sepprune" in PAPERS


@pytest.mark.parametrize("node", NODES, ids=ids)
def test_the_import_closure_lies_inside_the_deps(node: dag.Node) -> None:
    deps = [ROOT / d for d in node.deps]
    missing = [
        path.relative_to(ROOT).as_posix()
        for path in sorted(closure(source(node), ROOT))
        if not any(path == d or d in path.parents for d in deps) and not only_docstring(path)
    ]
    assert not missing, f"{node.address} imports files that are not in its deps: {missing}"


def test_the_board_tracks_what_it_is_made_of() -> None:
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["compare"]["deps"]
    places = [ROOT / d for d in deps]
    missing = [
        path.relative_to(ROOT).as_posix()
        for path in sorted(closure(ROOT / "stages/report/compare.py", ROOT))
        if not any(path == p or p in path.parents for p in places) and not only_docstring(path)
    ]
    assert not missing


@pytest.mark.parametrize("node", NODES, ids=ids)
def test_shared_code_is_listed_by_file(node: dag.Node) -> None:
    """A file that is added to a folder of `stages` for one paper must not re-run another paper;
    verdicts and pages, which cost seconds, may."""
    whole = [d for d in node.deps if d.startswith("stages/") and not d.endswith(".py")]
    assert not set(whole) - {"stages/claims", "stages/report"}


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_tracks_the_packages_that_data_lock_gives_it(paper: str) -> None:
    own = {f"packages.{name}" for name in datalock.read(ROOT).of(paper=paper)}
    assert {key for node in NODES if node.paper == paper for key in node.packages} == own


def test_the_closure_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "stages").mkdir(exist_ok=True)
        (tmp_path / f"stages/{name}.py").write_text("")
    (tmp_path / "stages/a.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from stages import c\n"
        "def f():\n    from stages import b\n    x = 1\n"
    )
    (tmp_path / "stages/b.py").write_text("x = 1\n")
    (tmp_path / "stages/c.py").write_text("x = 1\n")
    assert closure(tmp_path / "stages/a.py", tmp_path) == {
        tmp_path / "stages/a.py",
        tmp_path / "stages/b.py",
    }


@pytest.mark.parametrize("path", sorted((ROOT / "stages").rglob("*.py")), ids=str)
def test_stages_know_no_paper(path: Path) -> None:
    assert not [p for p in imported(path, ROOT) if "pipelines" in p.relative_to(ROOT).parts]


def test_mlflow_is_known_in_two_places() -> None:
    naming = re.compile(r"^\s*(import mlflow|from mlflow)", re.MULTILINE)
    found = {
        path.relative_to(ROOT).as_posix()
        for base in ("stages", "pipelines")
        for path in (ROOT / base).rglob("*.py")
        if naming.search(path.read_text(encoding="utf-8"))
    }
    assert found == {
        "stages/core/tracking/mlflow_sink.py",
        "stages/core/tracking/registry.py",
    }


def test_no_file_is_unpickled() -> None:
    """The loaders refuse pickles; the one use of pickle is a call to our own worker."""
    wrong, uses = [], set()
    for base in ("stages", "pipelines"):
        for path in (ROOT / base).rglob("*.py"):
            text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
            loads = re.findall(r"torch\.load\([^)]*\)", text)
            wrong += [name for call in loads if "weights_only=True" not in call]
            wrong += [name] if "allow_pickle=True" in text else []
            if re.search(
                r"^\s*(import|from) (pickle|cloudpickle|joblib|dill)\b", text, re.MULTILINE
            ):
                uses.add(name)
    assert not wrong and uses == {"stages/core/cluster/caller.py"}


@pytest.mark.parametrize("paper", PAPERS)
def test_papers_import_no_other_paper(paper: str) -> None:
    home = ROOT / "pipelines" / paper
    for path in home.rglob("*.py"):
        for other in imported(path, ROOT) - BARE:
            inside = other.relative_to(ROOT).parts
            foreign = inside[0] == "pipelines" and home not in other.parents
            assert not foreign or inside[1] == "foundations", f"{path} imports {other}"


@pytest.mark.parametrize("paper", [p for p in PAPERS if not p.startswith("foundations/")])
def test_a_paper_has_its_parts(paper: str) -> None:
    home = ROOT / "pipelines" / paper
    missing = [p for p in PARTS if not (home / p).is_file()]
    deps = {dep for node in NODES if node.paper == paper for dep in node.deps}
    for stage in LENT:
        lent = any(re.match(rf"work/foundations/\w+/{stage}(/|$)", dep) for dep in deps)
        missing += [] if (home / f"{stage}.py").is_file() or lent else [stage]
    assert not missing


@pytest.mark.parametrize("paper", PAPERS)
def test_the_dag_reads_in_order(paper: str) -> None:
    stages = dag.pipeline(ROOT, paper)
    made: set[str] = set()
    for name, entry in stages.items():
        order = [k for k in entry if k in KEYS]
        assert order == sorted(order, key=KEYS.index), f"{paper}:{name} has its keys out of order"
        assert f" {paper}" in entry["cmd"], "without the paper's name DVC's run cache mixes papers"
        for dep in entry["deps"]:
            if dep.startswith(f"work/{paper}/"):
                stage = dep.removeprefix(f"work/{paper}/").split("/")[0]
                assert stage in made, f"{paper}:{name} reads {dep} before it is made"
        made.add(name)


@pytest.mark.parametrize("node", NODES, ids=ids)
def test_the_keys_a_stage_reads_are_the_keys_dvc_tracks(node: dag.Node) -> None:
    model = door.load_stage(node.paper, node.stage).Params
    expected = tracked_keys(model, dag.section(node.paper), node.stage, node.variant)
    assert sorted(node.params) == expected


def leaves(value: object, path: str = "") -> list[str]:
    if isinstance(value, dict) and value:
        return [leaf for k, v in value.items() for leaf in leaves(v, f"{path}.{k}" if path else k)]
    return [path]


def test_every_key_of_params_yaml_is_read() -> None:
    read = {"common.profile", "common.threads", "common.device"}
    for node in NODES:
        read |= set(node.params)
        matrix = dag.pipeline(ROOT, node.paper)[node.stage].get("matrix", {})
        read |= {axis.strip("${}") for axis in matrix.values() if isinstance(axis, str)}
    for leaf in leaves(VALUES):
        assert any(leaf == k or leaf.startswith(k + ".") for k in read), f"nothing reads {leaf}"


@pytest.mark.parametrize("profile", ["desk", "smoke", "lab", "paper"])
def test_every_profile_gives_valid_parameters(profile: str) -> None:
    values, papers = overlaid(ROOT, profile)
    assert papers
    for paper in papers:
        for node in dag.nodes(ROOT, paper, values):
            model = door.load_stage(paper, node.stage).Params
            build(model, values, dag.section(paper), node.stage, node.variant)


def test_overlays_name_only_stages_that_are_there() -> None:
    """Deeper slips are found by building every profile's parameters, which are closed."""
    for paper in PAPERS:
        base = lookup(VALUES, dag.section(paper))
        for profile in ("smoke", "lab", "paper"):
            path = overlay_path(ROOT, paper, profile)
            overlay = read_yaml(path) if path.is_file() else {}
            assert set(overlay) <= set(base), f"{path.name} names a stage that {paper} lacks"


def test_adding_a_variant_touches_no_other_stage() -> None:
    more = yaml.safe_load(yaml.safe_dump(VALUES))
    variants = more["sepprune"]["prune"]["variants"]
    variants["another"] = dict(variants["random"])
    own = [node for node in NODES if node.paper == "sepprune"]
    before = {n.name: {k: lookup(VALUES, k) for k in n.params} for n in own}
    after = {
        n.name: {k: lookup(more, k) for k in n.params} for n in dag.nodes(ROOT, "sepprune", more)
    }
    changed = {name for name in before if before[name] != after[name]}
    assert {name.partition("@")[0] for name in changed} == {"evaluate"}
    assert {n.partition("@")[0] for n in set(after) - set(before)} == {"prune"}
    # What reads all arms runs too; no other arm and nothing before it does.
    touched = [node for node in own if node.name in changed or "work/sepprune/prune" in node.deps]
    for node in own:
        if any(repro.overlap(d, out) for d in node.deps for t in touched for out in t.outs):
            touched.append(node)
    assert {node.stage for node in touched} == {"evaluate", "bench", "claims", "page"}


def test_bench_never_comes_from_the_run_cache() -> None:
    for paper in PAPERS:
        entry = dag.pipeline(ROOT, paper).get("bench")
        if entry:
            assert all(next(iter(out.values()))["persist"] for out in entry["outs"])
            assert dag.DEVICE in entry["deps"]


def test_folders_of_variants_that_are_gone_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "pipelines").mkdir()
    shutil.copytree(ROOT / "pipelines/sepprune", tmp_path / "pipelines/sepprune")
    kept = next(n for n in NODES if n.paper == "sepprune" and n.stage == "prune")
    for folder in (kept.folder, "work/sepprune/prune/old/0-2", "work/sepprune/prune/random/7"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "f").write_text("")
    door.sweep(tmp_path, "sepprune", VALUES)
    left = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("f")]
    assert left == [f"{kept.folder}/f"]


@pytest.mark.parametrize("paper", [p for p in PAPERS if (ROOT / f"reports/papers/{p}").is_dir()])
def test_desk_scores_have_all_that_a_claim_names(paper: str) -> None:
    """Held against the committed results of desk, as the page offers them for download."""
    tables: dict[str, pandas.DataFrame] = {}
    for claim in load(ROOT / f"pipelines/{paper}/claims.yaml").claims:
        for cell in claim.places():
            if (cell.needs or claim.needs) is not None:
                continue
            quantity = claim.at(cell)
            if quantity.table not in tables:
                file = next((ROOT / f"reports/papers/{paper}/{quantity.table}").glob("scores.csv*"))
                tables[quantity.table] = pandas.read_csv(file, dtype=str).fillna("")
            rows = tables[quantity.table]
            rows = rows[rows["metric"] == quantity.metric]
            for arm in filter(None, (quantity.variant, quantity.baseline)):
                own = rows[rows["variant"] == arm]
                assert len(own), f"{claim.id}: no {quantity.metric} of {arm}"
                # An arm without the condition has one row for all of them.
                assert {quantity.condition, ""} & {None, *own["condition"]}, f"{claim.id}: {arm}"
