"""What a student learns from: identities between arms, gradients, adapters, several teachers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipelines.sdkd import cache, calibrate
from pipelines.sdkd.arms import Arm, Weights, faded
from pipelines.sdkd.nets.frame import Forecaster
from pipelines.sdkd.pupil import Pupil
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.distill.agree import weights as agreed
from stages.distill.bands import resize, split
from tests.jobs import for_tests
from tests.pipelines.sdkd.nets import STUDENTS, TEACHERS, Waves, calibrated, made

ONE: dict[str, Any] = {"teachers": ["alternet"]}
ARMS: dict[str, dict[str, Any]] = {
    "output": {"loss": "output", **ONE},
    "fitnet": {"loss": "feature", **ONE},
    "sdkd": {"loss": "latent_bands", **ONE},
    "sdkd_low": {"loss": "latent_bands", "high": False, **ONE},
    "sdkd_high": {"loss": "latent_bands", "low": False, **ONE},
    "sdkd_output": {"loss": "output_bands", "by_energy": False, **ONE},
    "sdkd_output_energy": {"loss": "output_bands", **ONE},
    "sdkd_branches": {"loss": "branches", **ONE},
    "activation_boundary": {"loss": "boundary", **ONE},
    "random_teacher": {"loss": "latent_bands", "teachers": ["alternet-random"]},
    "average": {"loss": "latent_bands", "teachers": ["alternet", "simvp"]},
    "agree": {"loss": "latent_bands", "teachers": ["alternet", "simvp"], "combine": "agree"},
    "agree_three": {
        "loss": "feature", "teachers": ["alternet", "simvp", "alternet_serial"], "combine": "agree",
    },
}  # fmt: skip
INDEX = torch.tensor([3, 0, 7])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What calibrate leaves of three small teachers."""
    root = tmp_path_factory.mktemp("cache")
    with (
        pytest.MonkeyPatch.context() as patch,
        for_tests(root, Node("sdkd", "calibrate", None, None, (), (), ())) as job,
    ):
        patch.setattr(calibrate.Fields, "load", lambda folder: Waves())
        yield calibrated(root / "teach", root / "calibrate", job, tuple(TEACHERS))


def pupil(
    folder: Path, name: str, student: str = "unet", strength: float = 1.0, alpha: float = 0.7,
    **changes: Any,
) -> Pupil:  # fmt: skip
    arm = Arm.model_validate(ARMS[name])
    weights = Weights.model_validate({"lambda": strength, "alpha": alpha})
    answers = cache.read(folder, arm.teachers, arm.keys, torch.device("cpu"))
    more: dict[str, Any] = {"seed": 5, "steps": 10, "fade": "constant", "bound": 1.0, **changes}
    return Pupil(made(student), arm, weights, answers, **more)


def answered(p: Pupil) -> tuple[Tensor, Tensor]:
    x = Waves().fixed("train")[1][INDEX]
    forecast, latent = p(x)
    return forecast, latent


def lesson(p: Pupil, step: int = 1) -> Tensor:
    return p.lesson(*answered(p), INDEX, step)


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("name", ARMS)
def test_every_arm_teaches_every_student(folder: Path, name: str, student: str) -> None:
    # Below one by so much that no teacher may count nothing.
    p = pupil(folder, name, student, bound=0.4 if name == "agree_three" else 0.6)
    loss = lesson(p)
    assert loss.ndim == 0 and loss.item() > 0
    loss.backward()
    moved = [n for n, v in p.named_parameters() if v.grad is not None and v.grad.any()]
    assert any(n.startswith("student.") for n in moved)
    adapters = [n for n, _ in p.named_parameters() if n.startswith("adapters.")]
    assert set(adapters) <= set(moved), "an adapter that does not learn"
    assert bool(adapters) == (p.arm.loss not in ("output", "output_bands"))


def test_trap_1_output_bands_with_alpha_one_are_output_distillation(folder: Path) -> None:
    """Plancherel: value and every gradient agree, so the two arms would train the same student."""
    slopes = []
    for name in ("output", "sdkd_output"):
        p = pupil(folder, name, alpha=1.0)
        loss = lesson(p)
        slopes.append([loss, *torch.autograd.grad(loss, list(p.student.parameters()))])
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(lesson(pupil(folder, "sdkd_output", alpha=0.5)), slopes[0][0])


def test_latent_bands_without_units_and_alpha_one_are_fitnet(folder: Path) -> None:
    fitnet, bands = pupil(folder, "fitnet"), pupil(folder, "sdkd", alpha=1.0)
    plain = lesson(fitnet) * fitnet.cache.teachers["alternet"].energy["latent"]
    bands.arm = bands.arm.model_copy(update={"by_energy": False})
    torch.testing.assert_close(lesson(bands), plain, rtol=1e-5, atol=0)


def test_sdkd_is_equation_7_with_each_band_in_units_of_its_energy(folder: Path) -> None:
    p = pupil(folder, "sdkd", "resnet", strength=0.3, alpha=0.7)
    _, latent = answered(p)
    memory = p.cache.teachers["alternet"]
    grid = memory.maps["latent"].shape[-2:]
    ours = p.adapters["alternet latent"](resize(latent, tuple(grid)))
    low, high = split(ours - memory.maps["latent"][INDEX], p.cache.cutoff)
    terms = (
        high.square().mean() / memory.energy["latent_high"],
        0.7 * low.square().mean() / memory.energy["latent_low"],
    )
    torch.testing.assert_close(lesson(p), 0.3 * sum(terms), rtol=1e-4, atol=0)
    # The arms with one band have that band's term, at full weight.
    for name, term in zip(("sdkd_high", "sdkd_low"), (terms[0], terms[1] / 0.7), strict=True):
        alone = lesson(pupil(folder, name, "resnet", strength=0.3))
        torch.testing.assert_close(alone, 0.3 * term, rtol=1e-4, atol=0)


def test_the_branches_are_learned_apart(folder: Path) -> None:
    p = pupil(folder, "sdkd_branches")
    assert sorted(p.adapters) == ["alternet high", "alternet low"]
    maps = p.cache.teachers["alternet"].maps
    assert not torch.equal(maps["high"], maps["low"])
    _, latent = answered(p)
    found = 0.0
    for key, scale in (("high", 1.0), ("low", 0.7)):
        ours = p.adapters[f"alternet {key}"](resize(latent, tuple(maps[key].shape[-2:])))
        apart = maps[key] - maps[key].mean((0, -2, -1), keepdim=True)
        error = (ours - maps[key][INDEX]).square().mean() / apart.square().mean()
        found += scale * float(error.detach())
    assert float(lesson(p)) == pytest.approx(found, rel=1e-4)


def test_a_branch_that_a_teacher_lacks_is_an_error(folder: Path) -> None:
    with pytest.raises(UserError, match="'simvp' has no low branch"):
        cache.read(folder, ["simvp"], ("high", "low"), torch.device("cpu"))
    with pytest.raises(UserError, match="unknown teacher 'oracle'; calibrate keeps: alternet, al"):
        cache.read(folder, ["oracle"], ("latent",), torch.device("cpu"))


def test_trap_3_lambda_fades_and_a_strength_of_zero_teaches_nothing(folder: Path) -> None:
    full = float(lesson(pupil(folder, "sdkd")))
    falling = pupil(folder, "sdkd", fade="linear")
    for step, share in ((1, 1.0), (6, 0.5), (10, 0.1)):
        assert faded("linear", step, 10) == pytest.approx(share)
        assert float(lesson(falling, step)) == pytest.approx(share * full, rel=1e-5)
    assert faded("constant", 10, 10) == 1.0
    assert float(lesson(pupil(folder, "sdkd", strength=0.0))) == 0.0


def test_two_teachers_are_averaged_or_weighted_by_their_gradients(folder: Path) -> None:
    p = pupil(folder, "average")
    forecast, latent = answered(p)
    parts = [
        p._of(name, memory, forecast, latent, INDEX) for name, memory in p.cache.teachers.items()
    ]
    torch.testing.assert_close(lesson(p), sum(parts) / 2, rtol=1e-5, atol=0)
    slopes = [torch.autograd.grad(part, latent, retain_graph=True)[0] for part in parts]
    a = agreed(slopes, 1.0)
    assert 0 < float(a[0]) < 1 and abs(float(a[0]) - 0.5) > 1e-3
    expected = (a * torch.stack(parts)).sum()
    torch.testing.assert_close(lesson(pupil(folder, "agree")), expected, rtol=1e-4, atol=0)
    # Bound to one half each, AE-KD is the average.
    bound = lesson(pupil(folder, "agree", bound=0.5))
    torch.testing.assert_close(bound, lesson(p), rtol=1e-5, atol=0)


def test_trap_7_with_one_teacher_the_rule_changes_nothing(folder: Path) -> None:
    p = pupil(folder, "sdkd")
    plain = lesson(p)
    p.arm = p.arm.model_copy(update={"combine": "agree"})
    assert torch.equal(lesson(p), plain)


def test_the_weights_pass_no_gradient(folder: Path) -> None:
    """d = sum a_m g_m with fixed a: the gradient is that of the weighted sum, no more."""
    p = pupil(folder, "agree")
    forecast, latent = answered(p)
    loss = p.lesson(forecast, latent, INDEX, 1)
    parts = [
        p._of(name, memory, forecast, latent, INDEX) for name, memory in p.cache.teachers.items()
    ]
    slopes = [torch.autograd.grad(part, latent, retain_graph=True)[0] for part in parts]
    a = agreed(slopes, 1.0)
    expected = a[0] * slopes[0] + a[1] * slopes[1]
    found = torch.autograd.grad(loss, latent)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


def test_the_untrained_teacher_answers_otherwise(folder: Path) -> None:
    names = ["alternet", "alternet-random"]
    found = cache.read(folder, names, ("latent",), torch.device("cpu")).teachers
    assert not torch.equal(found[names[0]].maps["latent"], found[names[1]].maps["latent"])
    assert float(lesson(pupil(folder, "random_teacher"))) != float(lesson(pupil(folder, "sdkd")))


def test_the_students_first_weights_do_not_depend_on_the_adapters(folder: Path) -> None:
    nets: list[Forecaster] = [pupil(folder, name).student for name in ARMS]
    for other in nets[1:]:
        for ours, theirs in zip(nets[0].parameters(), other.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    same = pupil(folder, "sdkd").adapters["alternet latent"].weight
    assert torch.equal(same, pupil(folder, "fitnet").adapters["alternet latent"].weight)
    assert not torch.equal(same, pupil(folder, "sdkd", seed=6).adapters["alternet latent"].weight)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"loss": "none", "teachers": ["alternet"]}, "takes no teacher"),
        ({"loss": "output", "teachers": []}, "needs teachers"),
        ({"loss": "feature", "teachers": ["a"], "high": False}, "no bands to leave out"),
        ({"loss": "latent_bands", "teachers": ["a"], "high": False, "low": False}, "must count"),
        ({"loss": "output", "teachers": ["a", "b", "a"], "combine": "agree"}, "names a twice"),
    ],
)
def test_an_arm_that_makes_no_sense_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Arm.model_validate(values)
