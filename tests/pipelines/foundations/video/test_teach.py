"""The stage `teach` on small nets and clips."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipelines.foundations.video import teach, teacher
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.text import PAD, Words
from stages.core import environment
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import listing, read_json
from stages.core.job import Job
from stages.core.seeding import seed_all
from tests.jobs import for_tests
from tests.pipelines.foundations.video import small

NODE = Node("foundations/video", "teach", "latte", None, (), (), ())


def values(name: str = "latte", **changes: Any) -> dict[str, Any]:
    own = {"seed": 0, "schedule": small.SCHEDULE, "text": 8, "drop": 0.5}
    own |= {"valid_clips": 4, "valid_rounds": 2}
    return own | {"variant": {"net": small.NETS[name], "train": small.SPEC}} | changes


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with for_tests(tmp_path, NODE) as made:
        environment.make_deterministic(1)
        yield made


def taught(root: Path, job: Job, name: str, out: str = "out", **changes: Any) -> Path:
    folder = root / out / name
    folder.mkdir(parents=True)
    job = replace(job, node=replace(NODE, variant=name), resume=root / f"resume-{out}-{name}")
    params = teach.Params.model_validate(values(name, **changes))
    teach.run(params, {"prepare": small.prepared(root / "clips")}, folder, job)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("name", small.NETS)
def test_what_is_kept_was_best_on_validation_clips(tmp_path: Path, job: Job, name: str) -> None:
    folder = taught(tmp_path, job, name)
    with (folder / "curve.csv").open(newline="") as file:
        curve = list(csv.DictReader(file))
    told = read_json(folder / "training.json")
    assert [row["step"] for row in curve] == ["2", "4"] and told["steps"] == 4
    assert told["valid_loss"] == pytest.approx(min(float(row["valid_loss"]) for row in curve))
    assert (folder / "pictures/learning.svg").is_file()
    found = teacher.load(folder)
    clips = Clips.load(tmp_path / "clips")
    assert found.shape == (small.FRAMES, 1, small.SIDE, small.SIDE)
    params, words = teach.Params.model_validate(values(name)), Words.fresh(len(small.WORDS), 8, 0)
    seed_all(name, 0, "validation")  # the noise that the loop validates with
    with torch.no_grad():
        loss = teach.valid_loss(clips, words, found.noising, params, torch.device("cpu"))
        assert loss(found.denoiser) == pytest.approx(told["valid_loss"], rel=1e-4)


def test_two_runs_leave_the_same_bytes(tmp_path: Path, job: Job) -> None:
    one, two = (taught(tmp_path, job, "cogvideox", out) for out in ("one", "two"))
    names = [path.relative_to(one) for path in listing(one)]
    assert names == [path.relative_to(two) for path in listing(two)]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_a_share_of_the_prompts_is_left_empty(tmp_path: Path) -> None:
    clips, words = small.clips(tmp_path), Words.fresh(len(small.WORDS), 8, 0)
    noising, seen = small.scheduler(), []

    class Reads(torch.nn.Module):
        def forward(self, x, t, text):
            seen.append(text.mask.sum(1) == 1)
            return x

    for drop, low, high in ((0.0, 0, 0), (0.5, 0.35, 0.65), (0.9, 0.8, 1)):
        seen.clear()
        loss = teach.step_loss(clips, words, noising, drop, 0, 8, torch.device("cpu"))
        torch.manual_seed(0)
        for step in range(1, 21):
            loss(Reads(), step)
        assert low <= float(torch.cat(seen).float().mean()) <= high
    assert PAD == 0


def test_a_trained_net_needs_a_training_and_a_published_one_has_none() -> None:
    with pytest.raises(ValidationError, match="a published net has train: null"):
        teach.Params.model_validate(values(variant={"net": small.NETS["latte"], "train": None}))


def test_frames_must_be_square(tmp_path: Path) -> None:
    clips = small.clips(tmp_path)
    clips.size = (8, 12)
    with pytest.raises(UserError, match="needs square frames, and prepare made 8 × 12"):
        teach.shape_of(clips, 8)
