"""teach, calibrate, tune and distill on small nets: what they leave, how arms are kept equal."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from pipelines.sdkd import calibrate, course, distill, teach, tune
from pipelines.sdkd.arms import Arm, infeasible
from pipelines.sdkd.model import load
from pipelines.sdkd.training import step_loss, valid_loss
from stages.core import environment
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.job import Job
from stages.core.seeding import seed_of
from stages.distill.bands import split
from stages.teach import loop
from tests.jobs import for_tests
from tests.pipelines.sdkd.nets import SPEC, STUDENTS, TEACHERS, Waves, made
from tests.pipelines.sdkd.test_pupil import ARMS

SEEDS = (0, 1)
LEARNING = {"fade": "constant", "bound": 0.6}
NODE = Node("sdkd", "distill", None, None, (), (), ())
ALL_ARMS = {"none": {"loss": "none", "teachers": []}, **ARMS}


@pytest.fixture(autouse=True, scope="module")
def waves() -> Iterator[None]:
    """The stages read made-up fields."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teach.Fields, "load", lambda folder: Waves())
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Job]]:
    """A folder with the teachers, their answers, and a job."""
    root = tmp_path_factory.mktemp("learning")
    with for_tests(root, NODE) as job:
        environment.make_deterministic(1)
        for stage in ("teach", "calibrate"):
            (root / stage).mkdir()
        spec = {**SPEC, "steps": 4, "validate_every": 2}
        params = teach.Params.model_validate(
            {"seed": 0, "teachers": TEACHERS, "train": dict.fromkeys(TEACHERS, spec)}
        )
        teach.run(params, {"prepare": root}, root / "teach", job)  # type: ignore[arg-type]
        told = calibrate.Params(seed=0, batch=4, teacher="alternet", cutoff=0.5)
        inputs = {"prepare": root, "teach": root / "teach"}
        calibrate.run(told, inputs, root / "calibrate", job)  # type: ignore[arg-type]
        yield root, job


def tuned(place: tuple[Path, Job], arm: str, out: Path, **changes: Any) -> Path:
    root, job = place
    values = {
        "seeds": [9, 4], "steps": 3,
        "grid": {"rates": [1.0, 0.5], "one": [0.1, 1.0], "two": [[0.1, 1.0], [1.0, 0.3]]},
        "students": STUDENTS, "train": dict.fromkeys(STUDENTS, SPEC), **LEARNING,
        "variant": ALL_ARMS[arm], **changes,
    }  # fmt: skip
    out.mkdir(parents=True)
    node = replace(NODE, stage="tune", variant=arm)
    job = replace(job, node=node, resume=root / ".resume" / f"tune-{arm}-{out.parent.name}")
    inputs = {"prepare": root, "calibrate": root / "calibrate"}
    tune.run(tune.Params.model_validate(values), inputs, out, job)  # type: ignore[arg-type]
    return out


def taught(
    place: tuple[Path, Job], arm: str, chosen: Path, out: Path, students: list[str], resume: str,
    change: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    root, job = place
    values = {
        "train": dict.fromkeys(STUDENTS, SPEC), **LEARNING, "students": STUDENTS,
        "variant": {"students": students}, **(change or {}),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    node = replace(NODE, variant=arm)
    job = replace(job, node=node, seeds=SEEDS, resume=root / ".resume" / resume)
    inputs = {"prepare": root, "calibrate": root / "calibrate", f"sdkd/tune/{arm}": chosen}
    distill.run(distill.Params.model_validate(values), inputs, out, job)  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def results(place: tuple[Path, Job]) -> dict[str, Path]:
    """Every arm, tuned and trained with two seeds."""
    root, _ = place
    made = {}
    for arm in ALL_ARMS:
        chosen = tuned(place, arm, root / "tune" / arm)
        students = list(STUDENTS) if arm in ("none", "sdkd") else ["unet"]
        folder = root / "distill" / arm / "0-1"
        made[arm] = taught(place, arm, chosen, folder, students, f"distill-{arm}")
    return made


def error(folder: Path, job: Job) -> float:
    """The validation error of the network in a folder."""
    with torch.no_grad():
        return valid_loss(Waves(), job.device)(load(folder))  # type: ignore[arg-type]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_teach_keeps_the_best_of_each_teacher(place: tuple[Path, Job]) -> None:
    root, job = place
    for name in TEACHERS:
        folder = root / "teach" / name
        told = read_json(folder / "training.json")
        assert told["steps"] == 4 and told["best_step"] in (2, 4)
        best = error(folder, job)
        assert told["valid_mse"] == pytest.approx(best, rel=1e-5)
        assert best == pytest.approx(
            min(float(r["valid_loss"]) for r in rows(folder / "curve.csv")), rel=1e-5
        )


def test_every_teacher_needs_a_training(place: tuple[Path, Job], tmp_path: Path) -> None:
    root, job = place
    values = {"seed": 0, "teachers": TEACHERS, "train": {"simvp": SPEC}}
    params = teach.Params.model_validate(values)
    with pytest.raises(UserError, match="each teacher needs one entry in both"):
        teach.run(params, {"prepare": root}, tmp_path, job)  # type: ignore[arg-type]


def test_trap_4_the_answers_are_the_teachers_in_eval_mode(place: tuple[Path, Job]) -> None:
    root, _ = place
    _, x, _ = Waves().fixed("train")
    for name in TEACHERS:
        net, kept = load(root / "teach" / name), load_file(root / f"calibrate/{name}.safetensors")
        with torch.no_grad():
            found = dict(zip(("output", "latent", "high", "low"), net.branches(x), strict=True))
        assert {k for k, v in found.items() if v is not None} == set(kept)
        for key, values in kept.items():
            torch.testing.assert_close(values, found[key], rtol=1e-5, atol=1e-6)
    assert (root / "calibrate/alternet-random.safetensors").is_file()
    assert not (root / "calibrate/simvp-random.safetensors").exists()


def test_trap_2_energies_are_those_of_the_training_windows(place: tuple[Path, Job]) -> None:
    root, _ = place
    bands = read_json(root / "calibrate/bands.json")
    assert bands["cutoff"] == 0.5 * 8 / 2
    _, _, y = Waves().fixed("train")
    for key, band in zip(("low", "high"), split(y.double(), bands["cutoff"]), strict=True):
        assert bands["targets"][key] == pytest.approx(float(band.square().mean()))
    for name in (*TEACHERS, "alternet-random"):
        kept, energy = load_file(root / f"calibrate/{name}.safetensors"), bands["energy"][name]
        for key, values in kept.items():
            apart = values.double() - values.double().mean((0, -2, -1), keepdim=True)
            assert energy[key] == pytest.approx(float(apart.square().mean()))
        assert energy["latent_low"] + energy["latent_high"] == pytest.approx(energy["latent"])
    assert (root / "calibrate/pictures/spectra.svg").is_file()


def test_what_lies_in_the_high_band_is_told_of_every_map(place: tuple[Path, Job]) -> None:
    root, _ = place
    bands = read_json(root / "calibrate/bands.json")
    for name in (*TEACHERS, "alternet-random"):
        kept = load_file(root / f"calibrate/{name}.safetensors")
        assert set(bands["high_share"][name]) == set(kept)
        for key, values in kept.items():
            apart = values.double() - values.double().mean((0, -2, -1), keepdim=True)
            _, high = split(apart, bands["cutoff"])
            share = float(high.square().mean() / apart.square().mean())
            assert bands["high_share"][name][key] == pytest.approx(share, rel=1e-5)
    table = {r["teacher"]: r for r in rows(root / "calibrate/bands.csv")}
    assert set(table) == {"ST-AlterNet", "ST-AlterNet, serial", "SimVP", "ST-AlterNet untrained"}
    own = bands["high_share"]["alternet"]
    assert table["ST-AlterNet"]["attention branch"] == f"{own['low']:.3f}"
    assert table["ST-AlterNet"]["convolution branch"] == f"{own['high']:.3f}"
    assert table["SimVP"]["attention branch"] == ""


def test_an_unknown_teacher_is_an_error_that_says_what_there_is(
    place: tuple[Path, Job], tmp_path: Path
) -> None:
    root, job = place
    params = calibrate.Params(seed=0, batch=4, teacher="oracle", cutoff=0.5)
    with pytest.raises(UserError, match="teach trained: alternet, alternet_serial, simvp"):
        inputs = {"prepare": root, "teach": root / "teach"}
        calibrate.run(params, inputs, tmp_path, job)  # type: ignore[arg-type]


def test_every_arm_has_the_same_number_of_tries(results: dict[str, Path]) -> None:
    root = results["none"].parents[2]
    for arm in ALL_ARMS:
        found = rows(root / "tune" / arm / "search.csv")
        assert [r["student"] for r in found] == [s for s in STUDENTS for _ in range(2)], arm
        assert {r["rate"] for r in found} == ({"1", "0.5"} if arm == "none" else {"1"})
        assert {r["steps"] for r in found} == {"3"}
        chosen = read_json(root / "tune" / arm / "chosen.json")
        assert Arm.model_validate(chosen["arm"]) == Arm.model_validate(ALL_ARMS[arm])
        for student in STUDENTS:
            own = [r for r in found if r["student"] == student]
            for r in own:
                each = [float(r[f"valid_mse_seed{seed}"]) for seed in (9, 4)]
                assert float(r["valid_mse"]) == pytest.approx(sum(each) / 2)
                assert each[0] != each[1]
            best = min(own, key=lambda r: float(r["valid_mse"]))
            picked = chosen["students"][student]
            assert (picked["lambda"], picked["alpha"]) == (
                float(best["lambda"]), float(best["alpha"])
            )  # fmt: skip
    one_weight = rows(root / "tune/sdkd_low/search.csv")
    assert {r["alpha"] for r in one_weight} == {"1"}
    assert {r["alpha"] for r in rows(root / "tune/sdkd/search.csv")} == {"1", "0.3"}


def test_a_grid_that_favours_some_arms_is_refused() -> None:
    grid = {"rates": [1.0, 2.0], "one": [0.1, 1.0], "two": [[1.0, 1.0], [0.1, 1.0]]}
    assert tune.Grid.model_validate(grid)
    for change in ({"two": [[1.0, 1.0]]}, {"rates": [1.0]}):
        with pytest.raises(ValidationError, match="every arm gets the same number"):
            tune.Grid.model_validate(grid | change)
    with pytest.raises(ValidationError, match=r"beyond the range without alpha, 0\.1 to 1"):
        tune.Grid.model_validate(grid | {"two": [[1.0, 1.0], [0.05, 1.0]]})


@pytest.mark.parametrize(
    ("arm", "change", "message"),
    [
        ("sdkd", {"train": {"unet": SPEC}}, "tune.students has resnet, mixer, but .* only unet"),
        ("agree", {"bound": 0.3}, r"bound is 0\.3, but 2 weights .* at least 0\.5"),
        ("agree_three", {"bound": 0.33}, r"must be at least 0\.334"),
        ("sdkd", {"seeds": [1, 1]}, "names one twice"),
    ],
)
def test_a_search_that_cannot_be_done_is_refused(
    place: tuple[Path, Job], tmp_path: Path, arm: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        tuned(place, arm, tmp_path / "tune", **change)


def test_one_teacher_needs_no_bound(place: tuple[Path, Job]) -> None:
    """Nor do several that are averaged."""
    assert not infeasible(Arm.model_validate(ARMS["sdkd"]), 0.3)
    assert not infeasible(Arm.model_validate(ARMS["average"]), 0.3)
    assert not infeasible(Arm.model_validate(ARMS["agree"]), 0.5)


def test_a_bound_that_was_changed_after_the_search_is_refused(
    results: dict[str, Path], place: tuple[Path, Job], tmp_path: Path
) -> None:
    root, _ = place
    with pytest.raises(UserError, match=r"sdkd\.distill\.bound is 0\.3, but 2 weights"):
        change = {"bound": 0.3}
        taught(place, "agree", root / "tune/agree", tmp_path / "out", ["unet"], "bound", change)


def test_a_student_without_a_training_is_refused(
    results: dict[str, Path], place: tuple[Path, Job], tmp_path: Path
) -> None:
    root, _ = place
    with pytest.raises(ValidationError, match=r"tune\.students has resnet, mixer, but"):
        change = {"train": {"unet": SPEC}}
        taught(place, "sdkd", root / "tune/sdkd", tmp_path / "out", ["unet"], "train", change)


def test_the_mean_over_the_seeds_decides(
    place: tuple[Path, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seed prefers the first point, the other one the second, and by more."""
    found = {(0.1, 9): 0.4, (0.1, 4): 0.8, (1.0, 9): 0.5, (1.0, 4): 0.6}

    def trained(_: Any, __: Any, weights: Any, spec: Any, *, name: str, seed: int) -> Any:
        which = next(s for s in (9, 4) if seed == seed_of("tune", s))
        return course.Result({}, {}, found[weights.lambda_, which], 2, 3, [])

    monkeypatch.setattr(tune, "train", trained)
    folder = tuned(place, "sdkd_low", tmp_path / "tune")
    assert read_json(folder / "chosen.json")["students"]["unet"]["lambda"] == 1.0
    told = [(r["valid_mse"], r["valid_mse_seed4"]) for r in rows(folder / "search.csv")[:2]]
    assert told == [("0.6", "0.8"), ("0.55", "0.6")]


def test_trap_3_a_lesson_does_not_choose_the_student(
    results: dict[str, Path], place: tuple[Path, Job]
) -> None:
    """What is kept, and what tune compares, is the error against the truth alone."""
    _, job = place
    for arm, folder in results.items():
        for seed in SEEDS:
            unit = folder / f"unet/seed{seed}"
            curve = [float(r["valid_loss"]) for r in rows(unit / "curve.csv")]
            told = read_json(unit / "training.json")
            found = error(unit, job)
            assert told["valid_mse"] == pytest.approx(min(curve), rel=1e-5)
            assert told["valid_mse"] == pytest.approx(found, rel=1e-4), arm


def test_trap_8_all_arms_take_the_same_steps_from_the_same_start(
    results: dict[str, Path], place: tuple[Path, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {
        read_json(path)["steps"]
        for folder in results.values()
        for path in folder.glob("*/seed*/training.json")
    }
    assert steps == {SPEC["steps"]}
    # The first weights and the batches, as training meets them.
    seen: dict[str, list[Tensor]] = {}

    def spy(model: Any, loss: Any, spec: Any, **more: Any) -> Any:
        first = [p.clone() for p in model.student.parameters()]
        drawn = []
        genuine = Waves.batch

        def watched(self: Waves, seed: int, step: int, size: int) -> Any:
            drawn.append(genuine(self, seed, step, size))
            return drawn[-1]

        monkeypatch.setattr(Waves, "batch", watched)
        try:
            return loop.fit(model, loss, spec, **more)
        finally:
            monkeypatch.setattr(Waves, "batch", genuine)
            seen[name] = [*first, *(d[0] for d in drawn)]

    root, _ = place
    monkeypatch.setattr(course, "fit", spy)
    for name in ("none", "sdkd", "agree"):
        taught(place, name, root / "tune" / name, root / "again" / name, ["unet"], f"spy-{name}")
    for name in ("sdkd", "agree"):
        assert len(seen[name]) == len(seen["none"])
        assert all(torch.equal(a, b) for a, b in zip(seen[name], seen["none"], strict=True))


def test_arms_and_seeds_end_apart(results: dict[str, Path]) -> None:
    def weights(arm: str, seed: int) -> Tensor:
        return load_file(results[arm] / f"unet/seed{seed}/model.safetensors")["readout.weight"]

    for arm in ARMS:
        assert not torch.equal(weights(arm, 0), weights("none", 0)), arm
    assert not torch.equal(weights("none", 0), weights("none", 1))
    assert not torch.equal(weights("agree", 0), weights("average", 0))


def test_adapters_are_dropped(results: dict[str, Path]) -> None:
    for arm, folder in results.items():
        for path in folder.glob("*/seed*/model.safetensors"):
            names = set(load_file(path))
            assert names == set(made(path.parts[-3]).state_dict()), arm


def test_the_undistilled_arm_is_plain_training(
    results: dict[str, Path], place: tuple[Path, Job]
) -> None:
    """Bit for bit what the loop makes of the student without any of this."""
    root, job = place
    parsed = distill.Params.model_validate(
        {"train": dict.fromkeys(STUDENTS, SPEC), **LEARNING, "students": STUDENTS,
         "variant": {"students": ["unet"]}}
    )  # fmt: skip
    net = course.fresh(Waves(), parsed.students["unet"], 1)  # type: ignore[arg-type]
    done = loop.fit(
        net,
        step_loss(Waves(), seed_of("distill", 1), 4, job.device),  # type: ignore[arg-type]
        loop.TrainSpec(**SPEC),
        job=replace(job, resume=root / ".resume/plain"),
        name="unet-seed1",
        seed=1,
        validate=valid_loss(Waves(), job.device),  # type: ignore[arg-type]
    )
    kept = load_file(results["none"] / "unet/seed1/model.safetensors")
    assert all(torch.equal(done.best[name], kept[name]) for name in kept)


def test_a_student_that_is_not_tuned_is_an_error(
    results: dict[str, Path], place: tuple[Path, Job], tmp_path: Path
) -> None:
    root, _ = place
    with pytest.raises(UserError, match="names the student 'vit'; allowed: unet, resnet, mixer"):
        taught(place, "sdkd", root / "tune/sdkd", tmp_path / "out", ["vit"], "vit")


def test_a_killed_stage_goes_on_to_the_same_bytes(
    results: dict[str, Path], place: tuple[Path, Job], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root, _ = place
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    genuine, left = distill.write_bytes, [1]

    def failing(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise InterruptedError
        genuine(path, data)

    monkeypatch.setattr(distill, "write_bytes", failing)
    for stop in (1, 2):  # in the first seed's unit, then in the second's
        left[0] = stop
        with pytest.raises(InterruptedError):
            taught(place, "sdkd", root / "tune/sdkd", tmp_path / f"cut{stop}", ["unet"], "cut")
    done = taught(place, "sdkd", root / "tune/sdkd", tmp_path / "done", ["unet"], "cut")
    files = sorted(p.relative_to(done) for p in done.rglob("*") if p.is_file())
    assert len(files) == 8
    for name in files:
        assert (done / name).read_bytes() == (results["sdkd"] / name).read_bytes(), name


def test_a_killed_search_does_not_repeat_its_tries(
    place: tuple[Path, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tuned(place, "sdkd", tmp_path / "whole/tune")
    genuine, left = tune.train, [4]

    def failing(*words: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise InterruptedError
        return genuine(*words, **more)

    monkeypatch.setattr(tune, "train", failing)
    with pytest.raises(InterruptedError):
        tuned(place, "sdkd", tmp_path / "cut/tune")
    left[0] = 100
    (tmp_path / "cut/tune").rmdir()
    again = tuned(place, "sdkd", tmp_path / "cut/tune")
    assert left[0] == 91, "three of twelve trainings were done before, nine are left"
    for name in ("search.csv", "chosen.json"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
