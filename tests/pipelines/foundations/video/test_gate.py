"""The gate: what it measures, and when it stops."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from pipelines.foundations.video import gate, judges, teacher
from pipelines.foundations.video.data import Clips, normal
from pipelines.foundations.video.judges import Judges
from stages.core import environment
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json, write_bytes, write_json
from stages.core.job import Job
from tests.jobs import for_tests
from tests.pipelines.foundations.video import small
from tests.pipelines.foundations.video.test_judges import ABOUT
from tests.pipelines.foundations.video.test_teacher import kept

NODE = Node("foundations/video", "gate", "latte", None, (), (), ())
VALUES: dict[str, Any] = {
    "seed": 0, "clips": 8, "batch": 3, "accuracy": 0.8, "frechet": 3.0, "required": False,
    "shown": 2, "variant": {"steps": 5, "guidance": 2.0},
}  # fmt: skip


class Jury:
    """Judges that look at the first pixels: its class, and the vector of a clip."""

    classes = ("place", "shade")
    shape = (3, 1, 8, 8)

    def named(self, x):
        return x[:, 0, 0, 0, :2].long()

    def vectors(self, x):
        return x[:, 0, 0, 1, :2]


def clips(labels, seed=0):
    x = small.drawn(len(labels), 3, 1, 8, 8, seed=seed)
    x[:, 0, 0, 0, :2] = labels.float()
    return x


def test_accuracy_counts_clips_that_are_right_in_all_they_show() -> None:
    labels = torch.tensor([[0, 1], [1, 1], [2, 0], [0, 0]])
    wrong = labels.clone()
    wrong[0, 0], wrong[1, 1], wrong[2] = 5, 5, 5
    found = gate.judged(Jury(), clips(wrong), clips(labels), clips(labels, 1), labels)  # type: ignore[arg-type]
    assert found["accuracy"]["real"] == {"place": 1.0, "shade": 1.0, "all": 1.0}
    assert found["accuracy"]["generated"] == {"place": 0.5, "shade": 0.5, "all": 0.25}
    assert found["accuracy"]["ratio"]["all"] == 0.25


def test_the_floor_is_the_distance_of_other_real_clips() -> None:
    labels = torch.zeros(200, 2, dtype=torch.int64)
    real, other = clips(labels), clips(labels, 1)
    same = gate.judged(Jury(), other, real, other, labels)["frechet"]  # type: ignore[arg-type]
    assert same["ratio"] == pytest.approx(1) and same["floor"] > 0
    away = other.clone()
    away[:, 0, 0, 1, :2] += 2
    far = gate.judged(Jury(), away, real, other, labels)["frechet"]  # type: ignore[arg-type]
    assert far["floor"] == same["floor"] and far["ratio"] > 20


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with for_tests(tmp_path, NODE) as made:
        environment.make_deterministic(1)
        yield made


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Clips, untrained judges and an untrained teacher."""
    torch.manual_seed(0)
    for name, net in zip(("classifier", "features"), judges.build(ABOUT), strict=True):
        write_bytes(tmp_path / f"judge/{name}/model.safetensors", save(net.state_dict()))
    write_json(tmp_path / "judge/judges.json", ABOUT)
    kept(tmp_path / "teach/latte", "latte")
    return {
        "prepare": small.prepared(tmp_path / "clips"),
        "judge": tmp_path / "judge",
        "foundations/video/teach/latte": tmp_path / "teach/latte",
    }


def run(inputs: dict[str, Path], job: Job, out: str = "out", **changes: Any) -> Path:
    folder = job.root / out
    folder.mkdir()
    job = replace(job, resume=job.root / f"resume-{out}")
    gate.run(gate.Params.model_validate(VALUES | changes), inputs, folder, job)  # type: ignore[arg-type]
    return folder


def test_it_leaves_the_clips_and_what_the_judges_say_of_them(
    inputs: dict[str, Path], job: Job
) -> None:
    out = run(inputs, job)
    kept_clips = load_file(out / "clips.safetensors")
    assert kept_clips["clips"].shape == (8, 3, 8, 8, 1)
    ids, real, prompts, labels = Clips.load(inputs["prepare"]).fixed("test")
    assert torch.equal(kept_clips["labels"], labels)
    found = teacher.load(inputs["foundations/video/teach/latte"])
    made = found.generate(ids, prompts, steps=5, guidance=2.0, seed=0, batch=8)
    torch.testing.assert_close(normal(kept_clips["clips"]), made, atol=0.01, rtol=0)
    told = read_json(out / "gate.json")
    other = Clips.load(inputs["prepare"]).fixed("valid")[1]
    jury = Judges.load(inputs["judge"])
    expected = gate.judged(jury, normal(kept_clips["clips"]), real, other, labels)
    assert told["accuracy"] == expected["accuracy"] and told["frechet"] == expected["frechet"]
    assert told["sampling"] == VALUES["variant"]
    assert read_json(out / "metrics.json") == expected
    assert (out / "pictures/strips.svg").is_file()


def test_two_runs_leave_the_same_bytes(inputs: dict[str, Path], job: Job) -> None:
    one, two = run(inputs, job, "one"), run(inputs, job, "two")
    for name in ("clips.safetensors", "gate.json", "pictures/strips.svg"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_limits_decide_and_a_required_gate_stops(inputs: dict[str, Path], job: Job) -> None:
    open_ = read_json(
        run(inputs, job, "open", accuracy=0.0, frechet=1e9, required=True) / "gate.json"
    )
    assert open_["passed"] == {"accuracy": True, "frechet": True}
    with pytest.raises(UserError, match=r"'latte' does not pass the gate.*times the floor"):
        run(inputs, job, "shut", accuracy=0.0, frechet=0.0, required=True)
    shut = read_json(run(inputs, job, "told", accuracy=9e9, frechet=0.0) / "gate.json")
    assert shut["passed"] == {"accuracy": False, "frechet": False}


def test_too_few_real_clips_are_an_error(inputs: dict[str, Path], job: Job) -> None:
    with pytest.raises(UserError, match="clips is 9, but the splits valid and test have 8 and 8"):
        run(inputs, job, clips=9)
