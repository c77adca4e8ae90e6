"""Teachers and every kind of arm on a made-up series: what they leave, what they share, a kill."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipelines.merlin import distill, teach
from pipelines.merlin.data import VIEWS, Series
from pipelines.merlin.deployed import Deployed
from pipelines.merlin.losses import masked_mae
from pipelines.merlin.model import build, load
from stages.core import environment
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.core.job import Job
from stages.core.seeding import seed_all
from stages.teach import loop
from tests.jobs import for_tests
from tests.pipelines.merlin import made

FULL = {"hidden": True, "result": True, "contrast": True}
ARMS: dict[str, dict[str, Any]] = {
    "merlin": FULL,
    "no_hidden": {"result": True, "contrast": True},
    "mixed_l1": {},
    "mixed_l1_clean": {"clean": True},
    "per_rate": {"per_rate": True},
    "impute_linear": {"input": "linear", "init": "frozen"},
    "mask_channel": {"input": "mask"},
    "teacher_init": {"init": "teacher"},
    "light": {**FULL, "weights": {**made.WEIGHTS, "teacher": 0.1}},
}
SEEDS = (0, 1)


def teach_params(**changes: Any) -> teach.Params:
    return teach.Params.model_validate({
        "seed": 0,
        "datasets": ["waves"],
        "backbones": {"stid": made.STID, "tsmixer": made.NETS["tsmixer"]},
        "train": {"stid": made.TRAIN, "tsmixer": made.TRAIN},
        "valid_windows": 20,
        **changes,
    })  # fmt: skip


def params(name: str, **changes: Any) -> distill.Params:
    arm = {"backbones": ["stid"], "datasets": ["waves"], **ARMS[name]}
    return distill.Params.model_validate({
        "weights": made.WEIGHTS,
        "epoch_updates": 1,
        "valid_windows": 20,
        "code": 8,
        "train": {"stid": made.TRAIN, "tsmixer": made.TRAIN},
        "variant": {**arm, **changes},
    })  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The made-up series and its teachers."""
    folder = tmp_path_factory.mktemp("inputs")
    found = {name: folder / name for name in ("prepare", "calibrate", "teach")}
    made.series(found["prepare"], found["calibrate"])
    with for_tests(folder, Node("demo", "teach", None, None, (), (), ())) as job:
        environment.make_deterministic(1)
        teach.run(teach_params(), found, found["teach"], job)  # type: ignore[arg-type]
        yield found


def run(name: str, inputs: dict[str, Path], out: Path, job: Job, **changes: Any) -> Path:
    job = replace(job, seeds=changes.pop("seeds", SEEDS), resume=job.resume / out.name)
    distill.run(params(name, **changes), inputs, out, job)  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def results(
    inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("out")
    with for_tests(folder, Node("demo", "distill", None, None, (), (), ())) as job:
        environment.make_deterministic(1)
        yield {name: run(name, inputs, folder / name, job) for name in ARMS}


def test_a_teacher_is_trained_on_complete_history_with_fresh_gradients(
    inputs: dict[str, Path],
) -> None:
    """The released loops never clear gradients: replayed by hand with and without, the stage's
    bytes are those of the run that does."""
    series = Series.load(inputs["prepare"], "waves")
    config = read_json(inputs["teach"] / "waves/stid/config.json")
    kept = load_file(inputs["teach"] / "waves/stid/model.safetensors")
    assert read_json(inputs["teach"] / "waves/stid/training.json")["best_step"] == 6

    def replay(clear: bool) -> dict[str, Tensor]:
        seed_all("teach", "waves", "stid", 0)
        model = build(config)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda done: 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done / 6)).item())
        )
        for step in range(1, 7):
            model.train()
            seed_all("waves-stid", 0, step)
            window = series.window(series.batch(0, step, 4))
            y = model(window.x, window.tod, window.dow)[0]
            if clear:
                optimiser.zero_grad()
            masked_mae(y, window.y, window.label).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()
        return model.state_dict()

    right, wrong = replay(clear=True), replay(clear=False)
    for name, value in kept.items():
        torch.testing.assert_close(value, right[name], rtol=1e-4, atol=1e-6)
    far = [n for n, v in kept.items() if not torch.allclose(v, wrong[n], rtol=1e-3, atol=1e-5)]
    assert far


def test_teachers_leave_whole_nets(inputs: dict[str, Path]) -> None:
    for backbone in ("stid", "tsmixer"):
        folder = inputs["teach"] / "waves" / backbone
        net = load(folder)
        assert net.head is None and net.config["sensors"] == made.SENSORS
        lines = (inputs["teach"] / f"curves/waves-{backbone}.csv").read_text().splitlines()
        assert lines[0] == "step,train_loss,valid_loss,lr" and len(lines) == 3
        valid = [float(line.split(",")[2]) for line in lines[1:]]
        best = read_json(folder / "training.json")["valid_loss"]
        assert best == pytest.approx(min(valid), rel=1e-6)


def test_every_arm_leaves_what_can_be_used(
    results: dict[str, Path], inputs: dict[str, Path]
) -> None:
    series = Series.load(inputs["prepare"], "waves")
    starts = series.starts("test")[:6]
    window = series.window(starts)
    for name, out in results.items():
        for seed in SEEDS:
            folder = out / "waves/stid" / f"seed{seed}"
            told = read_json(folder / "training.json")
            names = made.VIEWS if name == "per_rate" else ["all"]
            assert list(told["models"]) == sorted(names) and told["views"] == made.VIEWS
            files = {"config.json", "training.json", *(m["file"] for m in told["models"].values())}
            if name != "impute_linear":
                files |= {m["file"].replace("model", "curve").replace(".safetensors", ".csv")
                          for m in told["models"].values()}  # fmt: skip
            assert {p.name for p in folder.iterdir()} == files
            assert read_json(folder / "config.json")["code"] == 0
            deployed = Deployed.load(folder)
            for key in ("complete", "mcar-75"):
                y, _ = deployed.forecast(window, series.kept(key, starts), key)
                assert y.shape == window.y.shape and y.isfinite().all()
            for about in told["models"].values():
                assert about["steps"] == (0 if name == "impute_linear" else 6)
                assert about["valid_loss"] > 0


def test_the_error_that_is_kept_is_the_best_of_the_curve(results: dict[str, Path]) -> None:
    folder = results["merlin"] / "waves/stid/seed0"
    rows = (folder / "curve.csv").read_text().splitlines()[1:]
    about = read_json(folder / "training.json")["models"]["all"]
    by_step = {int(row.split(",")[0]): float(row.split(",")[2]) for row in rows}
    assert about["valid_loss"] == pytest.approx(by_step[about["best_step"]], rel=1e-6)
    assert by_step[about["best_step"]] == min(by_step.values())


def test_arms_of_a_seed_start_alike_and_end_apart(
    results: dict[str, Path], inputs: dict[str, Path]
) -> None:
    teacher = load(inputs["teach"] / "waves/stid")
    fresh = {
        name: distill.student(params(name), teacher, "waves", 0).body.state_dict()
        for name in ("merlin", "mixed_l1", "mixed_l1_clean", "per_rate", "light")
    }
    first = fresh.pop("merlin")
    for state in fresh.values():
        assert all(torch.equal(value, first[key]) for key, value in state.items())
    other = distill.student(params("merlin"), teacher, "waves", 1).body.state_dict()
    assert not torch.equal(other["embed.weight"], first["embed.weight"])
    assert not torch.equal(teacher.body.state_dict()["embed.weight"], first["embed.weight"])
    begun = distill.student(params("teacher_init"), teacher, "waves", 0).body.state_dict()
    assert all(torch.equal(v, begun[k]) for k, v in teacher.body.state_dict().items())
    ends = [
        load_file(results[name] / "waves/stid/seed0/model.safetensors")["body.embed.weight"]
        for name in ("merlin", "no_hidden", "mixed_l1", "mixed_l1_clean", "light", "teacher_init")
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(ends) for b in ends[:i])


def test_what_is_kept_of_a_student_is_as_large_as_its_teacher(
    results: dict[str, Path], inputs: dict[str, Path]
) -> None:
    """Trap: one architecture is no compression. The head that trained with it is as large as the
    rest of this net, and is gone."""
    teacher = load_file(inputs["teach"] / "waves/stid/model.safetensors")
    whole = distill.student(params("merlin"), load(inputs["teach"] / "waves/stid"), "waves", 0)
    assert sum(p.numel() for p in whole.parameters()) > sum(v.numel() for v in teacher.values())
    for name in ("merlin", "no_hidden", "mixed_l1"):
        kept = load_file(results[name] / "waves/stid/seed0/model.safetensors")
        assert {k: v.shape for k, v in kept.items()} == {k: v.shape for k, v in teacher.items()}


def test_an_arm_without_a_teacher_is_refused_before_it_trains(
    inputs: dict[str, Path], tmp_path: Path, job: Job
) -> None:
    (inputs["teach"] / "waves/dsformer").mkdir()
    with pytest.raises(UserError, match=r"no teacher of moon/stid; teach trained waves/stid"):
        run("merlin", inputs, tmp_path / "out", job, datasets=["waves", "moon"])
    (inputs["teach"] / "waves/dsformer").rmdir()
    assert not (tmp_path / "out").exists() and not list(job.resume.rglob("*.safetensors"))


def test_contrast_of_a_single_view_is_refused(
    inputs: dict[str, Path], tmp_path: Path, job: Job
) -> None:
    single = {**inputs, "calibrate": tmp_path / "calibrate"}
    shutil.copytree(inputs["calibrate"], single["calibrate"])
    views = single["calibrate"] / "waves" / VIEWS
    write_json(views, read_json(views)[:1])
    with pytest.raises(UserError, match="contrastive loss compares views"):
        run("merlin", single, tmp_path / "out", job)
    assert not list(job.resume.rglob("*.safetensors"))
    assert run("mixed_l1", single, tmp_path / "plain", job).is_dir()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"samples": 4, "heads": 2}, "samples 4 does not divide the history of 6"),
        ({"samples": 2, "heads": 5}, "heads 5 does not divide the width of 6"),
    ],
)
def test_numbers_of_a_network_that_do_not_go_together_are_refused(
    inputs: dict[str, Path], tmp_path: Path, job: Job, config: dict[str, int], message: str
) -> None:
    nets = {"stid": made.STID, "dsformer": {**made.NETS["dsformer"], **config}}
    wrong = teach_params(backbones=nets, train=dict.fromkeys(nets, made.TRAIN))
    with pytest.raises(UserError, match=f"merlin.teach.backbones.dsformer: {message}"):
        teach.run(wrong, inputs, tmp_path / "out", job)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_imputers_are_the_teacher(results: dict[str, Path], inputs: dict[str, Path]) -> None:
    teacher = load_file(inputs["teach"] / "waves/stid/model.safetensors")
    for seed in SEEDS:
        folder = results["impute_linear"] / f"waves/stid/seed{seed}"
        own = load_file(folder / "model.safetensors")
        assert own.keys() == teacher.keys()
        assert all(torch.equal(own[name], teacher[name]) for name in teacher)


def test_a_model_per_rate_is_trained_and_chosen_on_its_rate(results: dict[str, Path]) -> None:
    folder = results["per_rate"] / "waves/stid/seed0"
    states = [load_file(folder / f"model-{key}.safetensors")["body.embed.weight"]
              for key in made.VIEWS]  # fmt: skip
    assert all(not torch.equal(a, b) for i, a in enumerate(states) for b in states[:i])
    models = read_json(folder / "training.json")["models"]
    assert len({about["valid_loss"] for about in models.values()}) == 4
    assert all(about["likeness"] == {} for about in models.values())


def test_codes_are_told_where_there_are_any(results: dict[str, Path]) -> None:
    def likeness(name: str) -> set[str]:
        folder = results[name] / "waves/stid/seed0"
        return set(read_json(folder / "training.json")["models"]["all"]["likeness"])

    assert likeness("merlin") == {"hidden_same", "hidden_other", "code_same", "code_other"}
    assert likeness("mixed_l1") == likeness("impute_linear") == {"hidden_same", "hidden_other"}


def test_another_backbone(inputs: dict[str, Path], tmp_path: Path, job: Job) -> None:
    out = run("merlin", inputs, tmp_path / "two", job, backbones=["tsmixer"], seeds=(0,))
    assert load(out / "waves/tsmixer/seed0").config["name"] == "tsmixer"


@pytest.mark.parametrize("name", ["merlin", "per_rate"])
def test_a_killed_stage_goes_on_to_the_same_bytes(
    inputs: dict[str, Path], results: dict[str, Path], tmp_path: Path, job: Job,
    monkeypatch: pytest.MonkeyPatch, name: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    genuine, left = distill.Lesson.loss, [9]

    def failing(self: distill.Lesson, model: torch.nn.Module, step: int) -> Tensor:
        left[0] -= 1
        if left[0] == 0:
            raise InterruptedError
        return genuine(self, model, step)

    monkeypatch.setattr(distill.Lesson, "loss", failing)
    with pytest.raises(InterruptedError):
        run(name, inputs, tmp_path / "broken" / "again", job)
    left[0] = 0
    again, whole = run(name, inputs, tmp_path / "again", job), results[name]
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for file in files:
        assert (whole / file).read_bytes() == (again / file).read_bytes(), file
