"""The judges and the stage that trains them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.foundations.video import judge, judges
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.judges import Judges
from stages.core import environment
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import listing, read_json
from stages.core.job import Job
from tests.jobs import for_tests
from tests.pipelines.foundations.video import small
from tests.pipelines.foundations.video.small import FRAMES, JUDGE, SIDE, drawn

NODE = Node("foundations/video", "judge", None, None, (), (), ())
ABOUT = {
    "shape": [FRAMES, 1, SIDE, SIDE], "classes": {"place": 2, "shade": 2},
    "classifier": JUDGE, "features": JUDGE,
}  # fmt: skip


def params(steps: int = 4) -> judge.Params:
    spec = small.SPEC | {"steps": steps, "lr": 0.01, "ema": 0.0, "batch": 8}
    each = {"net": JUDGE, "train": spec}
    return judge.Params.model_validate(
        {"seed": 0, "classifier": each, "features": each, "redraw": 1.0}
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    with for_tests(tmp_path_factory.mktemp("judges"), NODE) as made:
        environment.make_deterministic(1)
        yield made


def trained(job: Job, name: str, **changes: Any) -> Path:
    out = job.root / name
    out.mkdir()
    job = replace(job, resume=job.root / f"resume-{name}")
    inputs = {"prepare": small.prepared(job.root / "clips", (32, 16, 16))}
    judge.run(params(**changes), inputs, out, job)  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def folder(job: Job) -> Path:
    return trained(job, "long", steps=40)


def test_they_learn_what_is_plain_to_see(folder: Path) -> None:
    told = read_json(folder / "metrics.json")
    assert told["accuracy"] == {"all": 1.0, "place": 1.0, "shade": 1.0}
    clips = Clips.load(folder.parent / "clips")
    _, x, _, labels = clips.fixed("test")
    assert torch.equal(Judges.load(folder).named(x), labels)


def test_features_have_the_scale_of_the_training_clips(folder: Path) -> None:
    vectors = Judges.load(folder).vectors(Clips.load(folder.parent / "clips").fixed("train")[1])
    assert vectors.shape == (32, JUDGE["embed"])
    torch.testing.assert_close(vectors.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(vectors.std(0), torch.ones(4), atol=1e-3, rtol=0)


def test_spoilt_clips_are_farther_away(folder: Path) -> None:
    told = read_json(folder / "metrics.json")["frechet"]
    assert told["blurred"] > told["as_they_are"]
    assert set(told) == {"as_they_are", "noisy", "blurred", "frozen", "shuffled"}


def test_faults_are_what_they_are_called() -> None:
    x = drawn(2, 4, 1, 6, 6).clamp(-1, 1)
    found = judge.spoilt(x)
    assert all(each.shape == x.shape for each in found.values())
    assert torch.equal(found["frozen"][:, 3], x[:, 0])
    order = [
        next(j for j in range(4) if torch.equal(found["shuffled"][:, i], x[:, j])) for i in range(4)
    ]
    assert sorted(order) == [0, 1, 2, 3] and order != [0, 1, 2, 3]
    middle = x[..., 1:4, 1:4].mean((-1, -2))
    torch.testing.assert_close(found["blurred"][..., 2, 2], middle)
    assert 0.05 < float((found["noisy"] - x).std()) < 0.12


def test_two_runs_leave_the_same_bytes(job: Job) -> None:
    one, two = trained(job, "one"), trained(job, "two")
    names = [path.relative_to(one) for path in listing(one)]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert {name.as_posix() for name in names} >= {
        "judges.json", "metrics.json", "classifier/model.safetensors", "features/curve.csv",
    }  # fmt: skip


def test_the_two_share_no_weights() -> None:
    torch.manual_seed(0)
    one, two = judges.build(ABOUT)
    first, second = one.trunk[0], two.trunk[0]
    assert isinstance(first, torch.nn.Conv3d) and isinstance(second, torch.nn.Conv3d)
    assert not torch.equal(first.weight, second.weight)


def test_a_redrawn_clip_counts_as_a_part_of_the_variance() -> None:
    _, features = judges.build(ABOUT)
    x, labels = drawn(6, FRAMES, 1, SIDE, SIDE).clamp(-1, 1), torch.zeros(6, 2, dtype=torch.int64)
    plain, with_it = features.loss(x, labels, 0.0), features.loss(x, labels, 2.0)
    drawn_again = features.draw(features.trunk(x))
    error = (drawn_again - x.flatten(1)).square().mean() / x.var()
    torch.testing.assert_close(with_it - plain, 2 * error)


def test_judging_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    jury = Judges(*judges.build(ABOUT))
    x = drawn(judges.BATCH + 3, FRAMES, 1, SIDE, SIDE)
    torch.testing.assert_close(jury.vectors(x)[-2:], jury.vectors(x[-2:]), atol=1e-5, rtol=1e-5)
    assert jury.named(x).shape == (len(x), 2)


def test_clips_of_another_form_are_scaled() -> None:
    x = torch.linspace(-1, 1, 4)[None, :, None, None, None].expand(1, 4, 3, 6, 10)
    found = judges.fitted(x, (4, 1, 3, 5))
    assert found.shape == (1, 4, 1, 3, 5)
    torch.testing.assert_close(found[0, :, 0, 1, 2], torch.linspace(-1, 1, 4))
    assert judges.fitted(x[:, :2], (3, 3, 6, 10)).shape == (1, 3, 3, 6, 10)
    assert judges.fitted(x, (4, 3, 6, 10)) is x
    grey = drawn(1, 4, 1, 6, 10)
    assert judges.fitted(grey, (4, 3, 6, 10)).shape == (1, 4, 3, 6, 10)


def test_a_folder_without_judges_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no judges: judges\.json is missing"):
        Judges.load(tmp_path)
