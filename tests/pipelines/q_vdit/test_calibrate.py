"""The stage `calibrate`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.gate import Sampling
from pipelines.q_vdit import calibrate
from pipelines.q_vdit.samples import SAMPLES, Samples
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.job import Inputs
from tests.jobs import for_tests
from tests.pipelines.foundations.video import small as clips
from tests.pipelines.q_vdit import small


@pytest.mark.parametrize(("total", "count"), [(100, 50), (20, 10), (7, 3), (5, 5), (9, 1)])
def test_kept_steps_are_spread_evenly(total: int, count: int) -> None:
    found = calibrate.kept(total, count)
    assert found == sorted(set(found)) and len(found) == count
    assert found[0] >= 0 and found[-1] < total
    gaps = [b - a for a, b in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert abs(found[0] - (total - 1 - found[-1])) <= 1


def test_more_steps_than_there_are_cannot_be_kept() -> None:
    with pytest.raises(UserError, match="the walk has 5"):
        calibrate.kept(5, 6)


def test_samples_are_the_walk_s() -> None:
    """Against the walk itself, watched without choosing steps."""
    from pipelines.foundations.video import diffusion

    teacher = small.taught()
    found = small.ground().samples
    seen: list[tuple[float, torch.Tensor, torch.Tensor]] = []
    names = [f"calibrate-{k}" for k in range(3)]
    noise = diffusion.noise_for(names, teacher.shape, 0)
    text, empty = teacher.read(small.PROMPTS)
    diffusion.sample(
        teacher.denoiser, teacher.noising, text, empty, noise, 5, 2.0,
        lambda _, t, x, both: seen.append((float(t), x, both)),
    )  # fmt: skip
    for place, number in enumerate(calibrate.kept(5, 2)):
        rows = found.step == place
        t, x, both = seen[number]
        assert (found.t[rows] == t).all()
        assert torch.equal(found.x[rows][:3], x) and torch.equal(found.x[rows][3:], x)
        assert torch.equal(found.target[rows], both)


def test_without_guidance_there_is_one_branch() -> None:
    plain = Sampling(steps=5, guidance=1)
    found = calibrate.gather(small.taught(), small.PROMPTS, plain, 2, 0)
    assert len(found) == 2 * 3 and bool(found.given.all())


def test_seeds_draw_other_noise() -> None:
    first, second = (small.ground(seed=seed).samples for seed in (0, 1))
    assert not torch.equal(first.x, second.x)


def test_salience_is_the_largest_magnitude_by_step() -> None:
    start = small.ground()
    name = "net.transformer_blocks.0.attn1.to_q"
    layer, seen = start.taught.denoiser.get_submodule(name), []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for step in range(2):
        small.output(
            start.taught.denoiser, start, (start.samples.step == step).nonzero().flatten().tolist()
        )
    hook.remove()
    wanted = torch.stack([x.flatten(0, -2).abs().amax(0) for x in seen])
    torch.testing.assert_close(start.salience[name], wanted)
    assert len(start.salience) == 4 + 4 + 2 + 4 + 2


def test_an_outlier_channel_is_told() -> None:
    table = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 30.0]])
    assert calibrate.outliers({"a": table}) == {"a": 30.0}


PREPARE, TEACH, GATE = (
    f"work/foundations/video/{name}" for name in ("prepare", "teach/latte", "gate/latte")
)
NODE = Node("q_vdit", "calibrate", None, None, (PREPARE, TEACH, GATE), (), ())


def stage(root: Path, out: Path) -> None:
    values = {"prompts": 3, "steps": 2, "batch": 4, "seeds": ["0", "1"]}
    params = calibrate.Params.model_validate(values)
    with for_tests(root, NODE) as job:
        calibrate.run(params, Inputs(root, NODE), out, job)


def test_the_stage_leaves_a_set_a_seed_and_the_same_bytes_twice(tmp_path: Path) -> None:
    clips.prepared(tmp_path / PREPARE)
    small.foundation(tmp_path)
    for out in ("a", "b"):
        stage(tmp_path, tmp_path / out)
    told = read_json(tmp_path / "a/calibration.json")
    assert told["seeds"]["seed0"]["samples"] == 12
    assert min(told["seeds"]["seed1"]["outliers"].values()) >= 1
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    one, two = (Samples.load(tmp_path / f"a/seed{seed}") for seed in (0, 1))
    assert (tmp_path / f"a/seed0/{SAMPLES}").is_file() and not torch.equal(one.x, two.x)


def test_more_prompts_than_kinds_are_refused(tmp_path: Path) -> None:
    found = Clips.load(clips.prepared(tmp_path))
    assert len(calibrate.asked(found, 4, 0)) == 4
    assert not torch.equal(calibrate.asked(found, 4, 0), calibrate.asked(found, 4, 1))
    with pytest.raises(UserError, match="of 4 kinds"):
        calibrate.asked(found, 5, 0)
