"""`python -m stages retrain`: a challenger from today's data is judged, promoted or refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import project

pytestmark = pytest.mark.slow
EVALUATE = """
    rows = []
    for file in sorted(inputs["prune"].glob("*/*/seed*.json")):
        found = read_json(file)
        for item in range(8):
            rows.append({
                "paper": "demo", "backbone": "net", "dataset": "sine", "variant": file.parts[-3],
                "condition": "", "seed": found["seed"], "item": f"i{item}", "metric": "error",
                "value": (1 + item / 10) / len(found["keep"]), "unit": "", "direction": "lower",
                "censored": False,
            })
    write_scores(out / "scores.parquet", rows)
    write_metrics(out / "metrics.json", {"rows": len(rows)})
"""
"""An error that falls with the number of units that are kept."""
SETTINGS = """variant: second
quality: [{metric: error, condition: null, aggregate: mean, compare: ratio, margin: 0.05}]
cost: []
now: {}
"""


def lay(folder: Path) -> Path:
    """The demo project with a score that says how good a network is, in git, not yet run."""
    made = project.make(folder, git=True)
    code = made / "pipelines/demo/evaluate.py"
    code.write_text(code.read_text().partition("    rows = []")[0] + EVALUATE.lstrip("\n"))
    (made / "pipelines/demo/retrain.yaml").write_text(SETTINGS)
    project.run(made, "git", "add", "-A")
    project.run(made, "git", "commit", "-qm", "demo")
    return made


def door(folder: Path, *words: str) -> tuple[int, str]:
    told = subprocess.run(
        [sys.executable, "-m", "stages", *words], cwd=folder,
        env={**project.ENV, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in told.stdout + told.stderr, told.stdout + told.stderr
    return told.returncode, told.stdout + told.stderr


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "reports/retrain/demo.json").read_text())
    return found


def share(folder: Path, value: float) -> None:
    project.change(folder, "demo.prune.share", value)


def test_promotion_refusal_and_the_way_back(tmp_path: Path) -> None:
    folder = lay(tmp_path / "p")

    code, told = door(folder, "retrain", "demo", "--dry-run")
    assert code == 0 and "demo:teach: never ran here" in told and "5 stages" in told
    assert not (folder / "reports/retrain").exists()

    assert "demo: first; version 1 is the champion" in door(folder, "retrain", "demo")[1]
    told = door(folder, "retrain", "demo")[1]
    assert "demo: unchanged; version 1 is the champion" in told

    share(folder, 0.25)  # half as many units: a challenger that is worse on purpose
    told = door(folder, "retrain", "demo")[1]
    assert "demo: refused; version 1 is the champion" in told
    assert "✗ quality error: worse, 2 (2 to 2), bound 1.05" in told
    assert record(folder)["findings"][0]["value"] == pytest.approx(2)
    # What was refused once is not judged again each night.
    assert "demo: unchanged; version 1 is the champion" in door(folder, "retrain", "demo")[1]

    share(folder, 0.75)
    told = door(folder, "retrain", "demo")[1]
    assert "demo: promoted; version 3 is the champion" in told
    assert "✓ quality error: not worse, 0.6667" in told
    shown = (folder / "reports/index.html").read_text()
    assert "demo: promoted" in shown and "version 3 is the champion" in shown.replace("\n", " ")

    assert "demo: rolled back; version 1 is the champion" in door(folder, "rollback", "demo")[1]
    # What was rolled back does not come again by itself; nor does what was refused, by mistake.
    told = door(folder, "retrain", "demo")[1]
    assert "demo: unchanged; version 1 is the champion" in told
    code, told = door(folder, "rollback", "demo", "--to", "2")
    assert code == 2 and "demo: version 2 never was in use; these were: 1, 3" in told
    code, told = door(folder, "rollback", "demo")
    assert code == 2 and "version 1 is its first one" in told
    assert "version 3 is the champion" in door(folder, "rollback", "demo", "--to", "3")[1]
    # The user's tree has no result of the challengers'.
    assert not (folder / "work/demo").exists()
    lineage(folder)
    interrupted(folder)


def interrupted(folder: Path) -> None:
    """A kill between the decision and what follows from it, and an alias that is gone."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.delete_registered_model_alias("demo", "champion")
    code, told = door(folder, "retrain", "demo")
    assert code == 2 and "demo has lost its champion; once in use: 1, 3." in told
    assert "version 1 is the champion" in door(folder, "rollback", "demo", "--to", "1")[1]
    client.delete_model_version_tag("demo", "3", "retort.in_use")
    board = folder / "reports/retrain/demo.json"
    board.unlink()
    # As if killed after the third was registered as promoted: the next run finishes that.
    told = door(folder, "retrain", "demo")[1]
    assert "unchanged; version 3 is the champion" in told
    assert "✓ quality error: not worse, 0.6667" in told
    assert client.get_model_version("demo", "3").tags["retort.in_use"] == "yes"
    known = json.loads(board.read_text())
    assert (known["outcome"], known["version"], known["champion"]) == ("promoted", "3", "3")
    # As if killed between the alias and the mark of use: a version is not its own predecessor.
    client.delete_model_version_tag("demo", "3", "retort.in_use")
    door(folder, "retrain", "demo")
    assert "rolled back; version 1 is the champion" in door(folder, "rollback", "demo")[1]


def test_other_seeds_cannot_be_held_against_the_champion(tmp_path: Path) -> None:
    folder = lay(tmp_path / "p")
    door(folder, "retrain", "demo")
    project.change(folder, "demo.prune.seeds", ["0-2"])
    code, told = door(folder, "retrain", "demo")
    assert code == 2 and "the champion of demo has no networks of prune@second-0-2" in told
    assert (
        "demo: first; version 2 is the champion" in door(folder, "retrain", "demo", "--afresh")[1]
    )


def test_another_profile_has_a_champion_of_its_own(tmp_path: Path) -> None:
    folder = lay(tmp_path / "p")
    (folder / "pipelines/demo/smoke.yaml").write_text("prune: {share: 0.25}\n")
    assert "demo: first; version 1" in door(folder, "retrain", "demo", "--profile", "smoke")[1]
    assert "demo: first; version 1" in door(folder, "retrain", "demo")[1]


def lineage(folder: Path) -> None:
    """From a version in the registry back to commit, parameters and networks."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    version = client.get_model_version_by_alias("demo", "champion")
    head = project.run(folder, "git", "rev-parse", "HEAD").stdout.strip()
    tags = version.tags
    assert tags["retort.commit"] == head and tags["retort.dirty"] == "true"
    assert (tags["retort.outcome"], tags["retort.replaced"]) == ("promoted", "1")
    for name in ("code", "data", "params", "environment", "dvc_lock", "networks", "day"):
        assert tags[f"retort.{name}"]
    files = {f.path for f in client.list_artifacts(version.run_id)}
    assert {"networks", "verdicts.json", "decision.json", "params.yaml"} <= files
    metrics = client.get_run(version.run_id).data.metrics
    assert metrics["quality/error/value"] == pytest.approx(2 / 3)


def test_a_folder_that_gained_files_is_read_anew(tmp_path: Path) -> None:
    folder = lay(tmp_path / "p")
    prepare = folder / "pipelines/demo/prepare.py"
    text = prepare.read_text().replace("    numbers: int\n", "    numbers: int\n    root: str\n")
    text = text.replace(
        "range(params.numbers)", "range(len(list((job.root / params.root).iterdir())))"
    )
    prepare.write_text(text)
    values = folder / "params.yaml"
    values.write_text(
        values.read_text().replace("    numbers: 64\n", "    numbers: 64\n    root: data\n")
    )
    for number in range(40):
        (folder / "data").mkdir(exist_ok=True)
        (folder / f"data/{number}.txt").write_text("x")
    door(folder, "retrain", "demo")
    made = folder / "work/.profiles/challenger-desk-demo/work/demo/prepare/numbers.json"
    assert len(json.loads(made.read_text())) == 40
    (folder / "data/40.txt").write_text("x")
    told = door(folder, "retrain", "demo")[1]
    assert len(json.loads(made.read_text())) == 41, told


def test_an_import_whose_source_changed_is_updated(tmp_path: Path) -> None:
    folder = lay(tmp_path / "p")
    source = tmp_path / "source.json"
    source.write_text("[0.1, 0.2]")
    project.run(folder, "dvc", "import-url", "-q", str(source), "numbers.json")
    prepare = folder / "pipelines/demo/prepare.py"
    prepare.write_text(prepare.read_text().replace(
        "[i / params.numbers for i in range(params.numbers)]",
        "__import__('json').loads((job.root / 'numbers.json').read_text())",
    ))  # fmt: skip
    dvc = folder / "pipelines/demo/dvc.yaml"
    dvc.write_text(dvc.read_text().replace(
        "deps: [pipelines/demo/prepare.py,", "deps: [pipelines/demo/prepare.py, numbers.json,"
    ))  # fmt: skip
    project.run(folder, "git", "add", "-A")
    project.run(folder, "git", "commit", "-qm", "import")
    told = door(folder, "retrain", "demo")[1]
    made = folder / "work/.profiles/challenger-desk-demo/work/demo/prepare/numbers.json"
    assert json.loads(made.read_text()) == [0.1, 0.2], told
    source.write_text("[0.1, 0.2, 0.3]")
    os.utime(source, (1, 1))
    door(folder, "retrain", "demo")
    assert json.loads(made.read_text()) == [0.1, 0.2, 0.3]
    assert (folder / "numbers.json").read_text() == "[0.1, 0.2]"


def test_a_challenger_that_cannot_be_made_leaves_the_champion(tmp_path: Path) -> None:
    folder = lay(tmp_path / "p")
    door(folder, "retrain", "demo")
    code = folder / "pipelines/demo/prune.py"
    broken = "    from stages.core.errors import UserError\n\n    raise UserError('no')\n"
    text = code.read_text().replace("    from safetensors", f"{broken}    from safetensors", 1)
    code.write_text(text)
    done, told = door(folder, "retrain", "demo")
    assert done == 2 and "the champion stays" in told
    assert record(folder)["outcome"] == "first"


def test_without_a_registry_nothing_is_decided(tmp_path: Path) -> None:
    folder = lay(tmp_path / "p")
    told = subprocess.run(
        [sys.executable, "-m", "stages", "retrain", "demo"], cwd=folder,
        env={**project.ENV, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 2 and "the registry is away (http://127.0.0.1:9" in told.stderr
    assert not (folder / "work/.profiles").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("moon",), "unknown paper 'moon'"),
        (("demo", "--day", "soon"), "invalid fromisoformat value"),
        (("demo", "--jobs", "0"), "write a number from 1 on"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    code, told = door(lay(tmp_path / "p"), "retrain", *words)
    assert code == 2 and said in told


def test_a_paper_without_settings_is_told_so(tmp_path: Path) -> None:
    folder = lay(tmp_path / "p")
    shutil.rmtree(folder / ".git")
    (folder / "pipelines/demo/retrain.yaml").unlink()
    code, told = door(folder, "retrain", "demo")
    assert code == 2 and "pipelines/demo/retrain.yaml is missing" in told
