"""The loss of a step, put together by hand; what it may touch and what it may not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.merlin import losses
from pipelines.merlin.arms import Arm, Weights
from pipelines.merlin.data import COMPLETE, Series
from pipelines.merlin.impute import inputs
from pipelines.merlin.model import Forecaster, build
from pipelines.merlin.training import Lesson, error, objective, spread
from stages.core.seeding import seed_all
from stages.distill import contrast
from tests.pipelines.merlin import made

CPU = torch.device("cpu")
FULL = {"hidden": True, "result": True, "contrast": True}


def arm(**changes: Any) -> Arm:
    return Arm.model_validate({"backbones": ["stid"], "datasets": ["waves"], **changes})


def weights(**changes: Any) -> Weights:
    return Weights.model_validate({**made.WEIGHTS, **changes})


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    folder = tmp_path_factory.mktemp("series")
    made.series(folder / "prepare", folder / "calibrate")
    return Series.load(folder / "prepare", "waves")


def net(seed: int, name: str = "stid", **changes: Any) -> Forecaster:
    torch.manual_seed(seed)
    return build(made.config(name, **changes))


def lesson(series: Series, of: Arm, **changes: Any) -> Lesson:
    teacher = net(1).eval().requires_grad_(False)
    plain = Lesson(series, made.VIEWS, of, weights(), teacher, 0, 4, 10, 20, CPU)
    return replace(plain, **changes)


def terms(series: Series, student: Forecaster, teacher: Forecaster, step: int) -> dict[str, float]:
    """Every part of the loss, a view at a time, as the released code has it."""
    starts = series.batch(0, step, 4)
    window = series.window(starts)
    taught_y, taught_h, _ = teacher(window.x, window.tod, window.dow)
    seen = []
    for key in made.VIEWS:
        x = inputs("zeros", window, series.kept(key, starts))
        seen.append(student(x, window.tod, window.dow))
    pairs = [
        contrast.nt_xent(seen[a][2], seen[b][2], 1.0) for a in range(4) for b in range(a + 1, 4)
    ]
    values = {
        "forecast": sum(losses.masked_mae(y, window.y, window.label) for y, _, _ in seen),
        "hidden": sum((h - taught_h).square().mean() for _, h, _ in seen),
        "result": sum((y - taught_y).square().mean() for y, _, _ in seen),
        "contrast": 2 * sum(pairs) / (4 * 3),
    }
    return {name: float(value) for name, value in values.items()}


@pytest.mark.parametrize("step", [1, 30, 31, 55, 130])
def test_the_loss_is_the_published_one_with_its_decay(series: Series, step: int) -> None:
    """Epochs of ten steps: 1, 3, 4, 6 and 13, where g is 1, 1, 1, 1/3 and 1/10."""
    of = lesson(series, arm(**FULL))
    student = net(2, code=8).eval()
    assert of.teacher is not None
    with torch.no_grad():
        part = terms(series, student, of.teacher, step)
        fade = losses.decay(1 + (step - 1) // 10, 3)
        expected = 2 * part["forecast"] + 2 * fade * (part["hidden"] + part["result"])
        expected += fade * part["contrast"]
        assert float(of.loss(student, step)) == pytest.approx(expected, rel=1e-5)
        steady = lesson(series, arm(**FULL), weights=weights(decay=False))
        whole = 2 * part["forecast"] + 2 * (part["hidden"] + part["result"]) + part["contrast"]
        assert float(steady.loss(student, step)) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ({}, []),
        ({"hidden": True}, ["hidden"]),
        ({"result": True}, ["result"]),
        ({"contrast": True}, ["contrast"]),
        ({"hidden": True, "contrast": True}, ["hidden", "contrast"]),
    ],
)
def test_an_arm_has_its_parts_and_no_others(
    series: Series, parts: dict[str, bool], names: list[str]
) -> None:
    of, student = lesson(series, arm(**parts)), net(2, code=8).eval()
    assert of.teacher is not None
    with torch.no_grad():
        part = terms(series, student, of.teacher, 5)
        expected = 2 * part["forecast"]
        expected += sum((1 if name == "contrast" else 2) * part[name] for name in names)
        assert float(of.loss(student, 5)) == pytest.approx(expected, rel=1e-5)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_complete_history(
    series: Series,
) -> None:
    teacher = net(1).eval().requires_grad_(False)
    starts = series.batch(0, 1, 4)
    window = series.window(starts)
    whole = inputs("zeros", window, series.kept(COMPLETE, starts))
    for parts in ({"hidden": True}, {"result": True}):
        of = arm(**parts)
        told = objective(teacher, window, whole, of, weights(forecast=1e-30), teacher, 1.0, None)
        assert float(told) == pytest.approx(0, abs=1e-12)
    # In training mode dropout alone is a distance that hidden distillation cannot remove.
    student = net(1).train()
    torch.manual_seed(0)
    noise = objective(
        student, window, whole, arm(hidden=True), weights(forecast=1e-30), teacher, 1.0, None
    )
    assert noise.item() > 1e-4


@pytest.mark.parametrize("name", made.NETS)
def test_the_teacher_stays_as_it_is(series: Series, name: str) -> None:
    teacher = net(1, name).eval().requires_grad_(False)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student = net(2, name, code=8)
    of = lesson(series, arm(**FULL), teacher=teacher)
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-2)
    for step in (1, 2, 3):
        student.train()
        optimiser.zero_grad()
        of.loss(student, step).backward()
        optimiser.step()
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_windows_that_overlap_are_rivals_unless_told_otherwise(series: Series) -> None:
    student = net(2, code=8).eval()
    plain = lesson(series, arm(contrast=True), batch=64)
    apart = lesson(series, arm(contrast=True), batch=64, weights=weights(apart=True))
    with torch.no_grad():
        assert float(apart.loss(student, 1)) < float(plain.loss(student, 1))
    near = lesson(series, arm(), batch=64, weights=weights(apart=True))
    with torch.no_grad():
        both = [float(x.loss(student, 1)) for x in (near, lesson(series, arm(), batch=64))]
    assert both[0] == both[1]


def test_the_clean_arm_sees_the_complete_history_too(series: Series) -> None:
    class Spy(Forecaster):
        seen: Tensor

        def forward(self, x: Tensor, tod: Tensor, dow: Tensor) -> Any:
            self.seen = x
            return super().forward(x, tod, dow)

    spy = Spy(made.config("stid")).eval()
    window = series.window(series.batch(0, 1, 4))
    for of, views in ((arm(), 4), (arm(clean=True), 5)):
        lesson(series, of, teacher=None).loss(spy, 1)
        assert len(spy.seen) == 4 * views
        complete = torch.equal(spy.seen[-4:], window.x)
        assert complete == of.clean
    with torch.no_grad():
        assert lesson(series, arm(clean=True)).validate(spy) == lesson(series, arm()).validate(spy)


def test_masks_are_drawn_once_for_all_epochs(series: Series) -> None:
    """Trap: masks drawn anew in each epoch would be an augmentation, and another method. What the
    net is fed of a window in its second epoch is what it was fed in the first, to the last bit."""

    class Spy(Forecaster):
        seen: Tensor

        def forward(self, x: Tensor, tod: Tensor, dow: Tensor) -> Any:
            self.seen = x.detach()
            return super().forward(x, tod, dow)

    spy, of = Spy(made.config("stid")).eval(), lesson(series, arm(), teacher=None)
    steps, fed = series.epoch_steps(of.batch), dict[int, Tensor]()
    again = 0
    for step in range(1, 2 * steps + 1):
        starts = series.batch(of.seed, step, of.batch)
        of.loss(spy, step)
        for start, views in zip(starts.tolist(), spy.seen.unflatten(0, (4, -1)).unbind(1),
                                strict=True):  # fmt: skip
            again += start in fed
            assert torch.equal(fed.setdefault(start, views), views)
    assert again > 0.9 * steps * of.batch
    assert len({views.ne(0).sum().item() for views in fed.values()}) > 10


def test_arms_of_a_seed_see_the_same_windows_masks_and_dropout(series: Series) -> None:
    """The forecast's part of the loss is the same whatever else an arm adds."""
    found = []
    for parts in ({}, {"contrast": True}, FULL):
        of = lesson(series, arm(**parts), weights=weights(teacher=0, contrast=0))
        student = net(2, code=8 if parts.get("contrast") else 0).train()
        seed_all("a step", 7)
        found.append(float(of.loss(student, 7)))
    assert found[0] == found[1] == found[2]


def test_validation_is_the_mean_over_the_rates(series: Series) -> None:
    student, of = net(2).eval(), lesson(series, arm(**FULL))
    starts = spread(series.starts("valid"), 20)
    assert len(starts) == 20
    with torch.no_grad():
        each = []
        for key in made.VIEWS:
            window = series.window(starts)
            x = inputs("zeros", window, series.kept(key, starts))
            off = (student(x, window.tod, window.dow)[0] - window.y).abs()[window.label]
            each.append(float(off.mean()))
            assert error(student, series, starts, key, "zeros", CPU) == pytest.approx(each[-1])
        assert of.validate(student) == pytest.approx(sum(each) / 4)


def test_spread_takes_both_ends() -> None:
    starts = torch.arange(100, 200).numpy()
    assert spread(starts, 100) is starts
    assert spread(starts, 4).tolist() == [100, 133, 166, 199]


@torch.no_grad()
def test_likeness_tells_same_windows_from_others(series: Series) -> None:
    found = lesson(series, arm(contrast=True)).likeness(net(2, code=8).eval())
    assert set(found) == {"hidden_same", "hidden_other", "code_same", "code_other"}
    assert found["hidden_same"] > found["hidden_other"]
    assert set(lesson(series, arm()).likeness(net(2).eval())) == {"hidden_same", "hidden_other"}
