"""`make verify`: stages run again in a clean copy, compared with `dvc.lock`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import project

pytestmark = pytest.mark.slow
CLAIMS = """paper: demo
claims:
  - {id: a, measure: {variant: second, baseline: first}, rule: {kind: better_than}}
  - {id: b, measure: {variant: second}, cells: {of: [{baseline: first}, {baseline: none}]}}
  - {id: c, measure: {variant: second}}
"""
ODD = '    write_json(out / "odd.json", {"draw": hash("odd"), "kept": 1})\n'


def built(folder: Path, odd: bool = False) -> Path:
    """The demo project after a run, in git; `odd`: teach draws from Python's hash seed."""
    made = project.make(folder / "p", git=True)
    code = made / "pipelines/demo/teach.py"
    if odd:
        text = code.read_text()
        text = text.replace(
            "import read_json, write_bytes", "import read_json, write_bytes, write_json"
        )
        code.write_text(text + ODD)
    project.repro(made, PYTHONHASHSEED="1")
    (made / "pipelines/demo/claims.yaml").write_text(CLAIMS)
    project.run(made, "git", "add", "-A")
    project.run(made, "git", "commit", "-qm", "results")
    return made


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("steady"))


@pytest.fixture
def folder(steady: Path, tmp_path: Path) -> Path:
    return shutil.copytree(steady, tmp_path / "p", symlinks=True)


def verify(folder: Path, *words: str) -> tuple[int, str]:
    told = subprocess.run(
        [sys.executable, "-m", "stages", "verify", *words],
        cwd=folder, env=project.ENV, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in told.stderr, told.stderr
    return told.returncode, told.stdout + told.stderr


def receipt(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "receipts/demo/verified.json").read_text())
    return found


def test_a_steady_paper_gives_the_same_bytes(folder: Path) -> None:
    shutil.rmtree(folder / "work/demo")  # the recorded inputs come from DVC's cache
    code, told = verify(folder)
    assert code == 0, told
    assert "demo: 5 of 5 stages verified\n" in told
    # The last ones first, where nothing stands in between.
    ends = [line.split()[0] for line in told.splitlines() if "same bytes" in line]
    assert ends == ["demo:prepare:", "demo:teach:", "demo:prune@second-0-1:",
                    "demo:prune@first-0-1:", "demo:evaluate:"]  # fmt: skip
    found = receipt(folder)
    (run,) = found["runs"].values()
    head = project.run(folder, "git", "rev-parse", "HEAD").stdout.strip()
    assert (run["commit"], run["dirty"], run["hash_seed"]) == (head, False, "4242")
    assert run["versions"]["torch"] and run["device"]["cpu"] and run["environment"]
    assert {own["outcome"] for own in found["stages"].values()} == {"same"}
    assert "5 of 5 stages" in (folder / "reports/index.html").read_text()


def test_a_stage_that_draws_from_the_hash_seed_is_caught(tmp_path: Path) -> None:
    folder = built(tmp_path, odd=True)
    code, told = verify(folder)
    assert code == 1
    assert "demo:teach: differs: first work/demo/teach/odd.json (" in told
    # Others are judged on the recorded inputs, not on those that differ.
    assert "demo: 4 of 5 stages verified, 1 differ" in told
    assert receipt(folder)["stages"]["teach"]["differing"] == ["work/demo/teach/odd.json"]
    shown = (folder / "reports/index.html").read_text()
    assert "4 of 5 stages; differs: teach (work/demo/teach/odd.json)" in shown


def test_a_budget_takes_what_backs_the_most_claims_and_goes_on_next_time(folder: Path) -> None:
    cost = {
        "prepare": 1,
        "teach": 500,
        "prune@first-0-1": 1,
        "prune@second-0-1": 2,
        "evaluate": 900,
    }
    for name, seconds in cost.items():
        path = folder / f"receipts/demo/{name}.json"
        own = json.loads(path.read_text())
        path.write_text(json.dumps({**own, "cpu_seconds": seconds}))
    add_claims_stage(folder)
    told = verify(folder, "--budget", "12s")[1]
    # Each stage costs four seconds more for its start: `second` backs three claims, `first` two.
    assert "2 of 5 stages within the budget" in told and "up to 3 claims rest on each" in told
    assert set(receipt(folder)["stages"]) == {"prepare", "prune@second-0-1"}
    told = verify(folder, "--budget", "6s")[1]
    assert "demo:prune@first-0-1: same bytes" in told
    assert "demo: 3 of 5 stages verified" in told
    code, told = verify(folder, "--budget", "2s")
    assert code == 2 and "no stage fits --budget: the shortest takes about 5 s" in told
    code, told = verify(folder, "--budget", "soon")
    assert code == 2 and "write a length of time such as 90s, 10m or 2h" in told


def add_claims_stage(folder: Path) -> None:
    """A stage that judges, so that there is something for others to stand below."""
    path = folder / "pipelines/demo/dvc.yaml"
    dag = yaml.safe_load(path.read_text())
    dag["stages"]["claims"] = {
        "cmd": "python -m stages claims demo", "wdir": "../..",
        "deps": ["work/demo/evaluate"], "outs": [], "meta": {"timing": True},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(dag, sort_keys=False))


def test_what_was_edited_since_is_left_out(folder: Path) -> None:
    code = folder / "pipelines/demo/teach.py"
    code.write_text(code.read_text() + "\n# another line\n")
    project.change(folder, "demo.prune.share", 0.25)
    done, told = verify(folder)
    assert done == 0
    assert "demo:teach: left out, changed: pipelines/demo/teach.py" in told
    assert "demo:prune@first-0-1: left out, changed: demo.prune.share" in told
    assert "demo: 2 of 5 stages verified" in told


def test_an_outcome_counts_for_its_entry_of_the_lock_alone(folder: Path) -> None:
    assert verify(folder)[0] == 0
    project.change(folder, "demo.teach.steps", 60)
    project.repro(folder)
    told = project.run(folder, sys.executable, "-m", "stages", "compare")
    assert told.returncode == 0
    assert "1 of 5 stages" in (folder / "reports/index.html").read_text()


def test_inputs_that_the_cache_lacks_are_named(folder: Path) -> None:
    """What a reviewer sees without `dvc pull`: what needs no input, or makes it first, is run."""
    shutil.rmtree(folder / ".dvc/cache/files")
    shutil.rmtree(folder / "work/demo")
    code = folder / "pipelines/demo/prepare.py"
    code.write_text(code.read_text() + "\n# another line\n")
    done, told = verify(folder)
    assert done == 1, "nothing could be compared"
    assert "demo:teach: not verified, DVC's cache lacks (`dvc pull`?) work/demo/prepare" in told
    assert "demo: 0 of 5 stages verified" in told


def test_on_other_packages_numbers_are_compared_within_the_tolerance(folder: Path) -> None:
    """The entry says that another environment made a table with slightly other numbers."""
    cache = folder / ".dvc/cache/files/md5"
    lock = folder / "pipelines/demo/dvc.lock"
    entries = yaml.safe_load(lock.read_text())
    entry = entries["stages"]["prepare"]
    for dep in entry["deps"]:
        if dep["path"] == "work/environment.json":
            dep["md5"] = "0" * 32
    numbers = json.loads((folder / "work/demo/prepare/numbers.json").read_text())
    rewrite(folder, cache, entry["outs"][0], [number * 1.001 for number in numbers])
    lock.write_text(yaml.safe_dump(entries, sort_keys=False))
    assert "demo:prepare: the same within the tolerance" in verify(folder)[1]
    rewrite(folder, cache, entry["outs"][0], [number * 1.1 for number in numbers])
    lock.write_text(yaml.safe_dump(entries, sort_keys=False))
    assert "demo:prepare: differs: first work/demo/prepare/numbers.json" in verify(folder)[1]


def rewrite(folder: Path, cache: Path, out: dict[str, Any], numbers: list[float]) -> None:
    """Have dvc.lock and the cache hold other numbers than the stage gives."""
    from stages.core import recorded

    other = folder.parent / "other"
    shutil.copytree(folder / "work/demo/prepare", other, dirs_exist_ok=True)
    (other / "numbers.json").write_text(json.dumps(numbers))
    provenance = json.loads((other / "provenance.json").read_text())
    (other / "provenance.json").write_text(json.dumps({**provenance, "environment": "other"}))
    found = recorded.files_now(other)
    for name, md5 in found.items():
        target = recorded.stored(cache, md5)
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            shutil.copyfile(other / name, target)
    out["md5"] = recorded.hash_of(found)
    listed = [{"md5": found[name], "relpath": name} for name in sorted(found)]
    path = recorded.stored(cache, out["md5"])
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(listed))
