import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from pipelines.merlin import calibrate
from pipelines.merlin.data import Series
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import listing
from stages.core.job import Inputs
from tests.jobs import for_tests
from tests.pipelines.merlin.prepared import dataset, lay, make, roads

VIEWS = ["mcar-25", "mcar-75"]
NODE = Node("merlin", "calibrate", None, None, ("work/merlin/prepare",), (), ())


def run(project: Path, name: str = "calibrate", views: list[str] = VIEWS) -> Path:
    out = project / "work/merlin" / name
    out.mkdir()
    with for_tests(project, NODE) as job:
        params = calibrate.Params.model_validate({"views": views})
        calibrate.run(params, Inputs(project, NODE), out, job)
    return out


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    lay(folder, roads())
    make(folder)
    return folder


def test_views_are_the_masks_of_training_and_validation(project: Path) -> None:
    out = run(project)
    assert json.loads((out / "roads/views.json").read_text()) == VIEWS
    stored = load_file(out / "roads/views.safetensors")
    series = Series.load(project / "work/merlin/prepare", "roads")
    assert set(stored) == set(VIEWS)
    for key, mask in stored.items():
        assert (mask == series.mask(key)[:320].numpy()).all()


def test_what_training_reads_is_what_was_stored_and_what_was_drawn(tmp_path: Path) -> None:
    """Distillation takes its masks from here; they are those of `prepare`, window by window."""
    lay(tmp_path, roads())
    make(tmp_path, datasets={"few": dataset(train_steps=60)})
    out, prepare = run(tmp_path), tmp_path / "work/merlin/prepare"
    drawn, seen = Series.load(prepare, "few"), Series.load(prepare, "few")
    assert seen.see(out) == VIEWS and seen.taught == (180, 320)
    for split in ("train", "valid"):
        starts = drawn.starts(split)
        for key in VIEWS:
            assert torch.equal(seen.kept(key, starts), drawn.kept(key, starts))
    with pytest.raises(IndexError):
        seen.kept("mcar-25", drawn.starts("test"))
    # Another mask in calibrate's folder is what is then seen.
    stored = load_file(out / "few/views.safetensors")
    save_file({key: 1 - mask for key, mask in stored.items()}, out / "few/views.safetensors")
    seen.see(out)
    starts = drawn.starts("valid")
    assert torch.equal(seen.kept("mcar-75", starts), ~drawn.kept("mcar-75", starts))


def test_a_table_of_views_and_no_file_besides(project: Path) -> None:
    out = run(project, "listed")
    names = {path.relative_to(out).as_posix() for path in listing(out)}
    assert {n for n in names if n.startswith("roads/")} == {
        "roads/views.json", "roads/views.safetensors",
    }  # fmt: skip
    assert len((out / "views.csv").read_text().splitlines()) == 1 + len(VIEWS)


def test_counts_of_what_is_left_agree_with_the_windows() -> None:
    there = np.random.default_rng(0).random((50, 3)) < 0.4
    brute = np.zeros(7, dtype=int)
    for start in range(50 - 6 + 1):
        for sensor in range(3):
            brute[there[start : start + 6, sensor].sum()] += 1
    assert calibrate.windows(there, 6).tolist() == brute.tolist()


def test_numbers_of_a_view() -> None:
    mask = np.array([[1, 1, 1, 0]], dtype=bool)
    told = calibrate.numbers(mask, np.array([1, 0, 3]))
    assert told["hidden"] == "25.0000%" and told["values left of 2"] == "1.50"
    assert told["histories with none"] == "25.00%" and told["histories with all"] == "75.00%"
    assert told["standard deviation"] == "0.87"


def test_with_nine_in_ten_hidden_a_quarter_of_the_histories_are_empty() -> None:
    there = np.random.default_rng(0).random((200_000, 4)) < 0.1
    counts = calibrate.windows(there, 12)
    assert counts[0] / counts.sum() == pytest.approx(0.9**12, abs=0.01)


def test_unknown_view_is_refused(project: Path) -> None:
    with pytest.raises(UserError, match="no mask 'mcar-33'"):
        run(project, "unknown", ["mcar-33"])


def test_a_view_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="named twice"):
        calibrate.Params.model_validate({"views": ["mcar-25", "mcar-25"]})


def test_again_the_same_bytes(project: Path) -> None:
    one, two = run(project, "one"), run(project, "two")
    for path in listing(one):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()
