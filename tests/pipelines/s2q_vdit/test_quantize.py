"""The stage `quantize`."""

import csv
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipelines.foundations.video import teacher as foundation
from pipelines.foundations.video.denoiser import Denoiser
from pipelines.s2q_vdit import calibrate, kept, quantize
from pipelines.s2q_vdit.arms import Arm
from pipelines.s2q_vdit.pool import Pool
from pipelines.s2q_vdit.selection import choose
from stages.core import environment
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import listing, read_json
from stages.core.job import Job
from stages.quantize.bits import stored
from tests.jobs import for_tests
from tests.pipelines.foundations.video.claimed import section
from tests.pipelines.foundations.video.small import drawn
from tests.pipelines.s2q_vdit import small

NODE = Node("s2q_vdit", "quantize", "s2q", "0-1", (), (), ())
TEACH = "foundations/video/teach/cogvideox"
COUNT = 4
ARMS = {
    name: arm
    for profile in ("desk", "lab", "paper")
    for name, arm in section("s2q_vdit", profile)["quantize"]["variants"].items()
}
S2Q = {"selection": "sds", "least": 0.5, "base": small.raw_base("full")}
RTN = {"selection": None, "least": None, "base": small.raw_base("nearest")}


def values(arm: dict[str, Any] = S2Q, **changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = {
        "bits": ["W4A6", "W8A8"], "layers": [{"pattern": "*", "inputs": True}],
        "branches": "both", "text": "apart", "held": 2, "course": small.COURSE | {"epochs": 1},
        "count": COUNT, "variant": arm,
    }  # fmt: skip
    return own | changes


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("s2q")
    found = small.inputs(root)
    pools = root / "pools"
    pools.mkdir()
    params = calibrate.Params.model_validate(
        {"prompts": 5, "count": COUNT, "norm": "spectral", "batch": 5, "seeds": ["0-1"]}
    )
    with for_tests(root, Node("s2q_vdit", "calibrate", None, None, (), (), ())) as job:
        environment.make_deterministic(1)
        calibrate.run(params, found, pools, job)  # type: ignore[arg-type]
    return found | {"calibrate": pools}


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with for_tests(tmp_path, NODE, (0, 1)) as made:
        environment.make_deterministic(1)
        yield made


def made(
    root: Path, inputs: dict[str, Path], job: Job, out: str = "out", fresh: bool = True, **own: Any
) -> Path:
    folder = root / out
    folder.mkdir()
    if fresh:
        job = replace(job, resume=root / f"resume-{out}")
    params = quantize.Params.model_validate(values(**own))
    quantize.run(params, inputs, folder, job)  # type: ignore[arg-type]
    return folder


def test_a_model_for_every_seed_and_bits(tmp_path: Path, inputs: dict[str, Path], job: Job) -> None:
    folder = made(tmp_path, inputs, job)
    taught = foundation.load(inputs[TEACH])
    x, t = drawn(2, *taught.shape), torch.tensor([30, 90])
    text, _ = taught.read(torch.tensor([[2, 4], [3, 5]]))
    gaps = {}
    with torch.no_grad():
        wanted = taught.denoiser(x, t, text)
        for seed in (0, 1):
            pool = Pool.load(inputs["calibrate"] / f"seed{seed}.safetensors")
            for bits in ("W4A6", "W8A8"):
                own = folder / bits / f"seed{seed}"
                model = kept.load(own, taught.denoiser)
                gaps[bits, seed] = float((model(x, t, text) - wanted).square().mean())
                told = read_json(own / "quantized.json")
                members = choose("sds", pool.diff, pool.quant, COUNT)
                assert told["members"] == [list(member) for member in members]
                assert told["rows"] == 2 * COUNT and told["learned"] > 0
                assert told["bytes"] == (own / kept.MODEL).stat().st_size
                assert len(told["blocks"]) == len(told["attention"]) == 2
                assert told["bits"]["weights"] == float(bits[1])
                assert told["bits"]["inputs"] == float(bits[3])
                size = stored(model, dense=True)
                assert told["bits"]["ledger"]["codes"] == size.ledger.codes
                assert told["bits"]["stored_per_weight"] == pytest.approx(size.per_weight)
                with (own / "curve.csv").open(newline="") as file:
                    assert len(list(csv.DictReader(file))) == 2
    assert max(gaps["W8A8", k] for k in (0, 1)) < 0.2 * min(gaps["W4A6", k] for k in (0, 1))
    assert gaps["W4A6", 0] != gaps["W4A6", 1]


def test_two_runs_leave_the_same_bytes_however_many_blocks_are_held(
    tmp_path: Path, inputs: dict[str, Path], job: Job
) -> None:
    job = replace(job, seeds=(1,))
    one, two, three = (
        made(tmp_path, inputs, job, f"held{k}", bits=["W4A6"], held=held)
        for k, held in enumerate((2, 2, 1))
    )
    names = [path.relative_to(one) for path in listing(one)]
    for other in (two, three):
        assert names == [path.relative_to(other) for path in listing(other)]
        assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_the_teacher_is_run_once_over_a_calibration_set_whatever_the_bits(
    tmp_path: Path, inputs: dict[str, Path], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = Denoiser.forward

    def counted(self: Denoiser, x: torch.Tensor, *others: Any) -> torch.Tensor:
        seen.append(len(x))
        return plain(self, x, *others)

    monkeypatch.setattr(Denoiser, "forward", counted)
    made(tmp_path, inputs, replace(job, seeds=(0,)), arm=RTN)
    assert sum(seen) == 2 * COUNT


def test_units_that_are_done_are_not_made_again(
    tmp_path: Path, inputs: dict[str, Path], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(tmp_path, inputs, job, "one", fresh=False, arm=RTN)
    monkeypatch.setattr(quantize, "_quantized", lambda *_: pytest.fail("made again"))
    two = made(tmp_path, inputs, job, "two", fresh=False, arm=RTN)
    names = [path.relative_to(one) for path in listing(one)]
    assert names and all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_an_arm_without_data_has_no_members(
    tmp_path: Path, inputs: dict[str, Path], job: Job
) -> None:
    folder = made(tmp_path, inputs, replace(job, seeds=(0,)), arm=RTN, bits=["W4A6"])
    told = read_json(folder / "W4A6/seed0/quantized.json")
    assert told["members"] == [] and told["rows"] == 0 and told["learned"] == 0
    for block in told["blocks"].values():
        assert block["before"]["plain"] == pytest.approx(block["after"]["plain"])
    assert (folder / "W4A6/seed0/curve.csv").read_text() == "block,epoch,loss\n"


def test_layers_that_are_left_out_count_in_full(
    tmp_path: Path, inputs: dict[str, Path], job: Job
) -> None:
    layers = [{"pattern": "attn1.*", "inputs": True}, {"pattern": "ff.*", "inputs": False}]
    folder = made(tmp_path, inputs, replace(job, seeds=(0,)), arm=RTN, bits=["W4A6"], layers=layers)
    bits = read_json(folder / "W4A6/seed0/quantized.json")["bits"]
    # Attention 4 x 16 x 16, feed-forward 2 x 16 x 64, and two modulations of 16 x 96.
    attention, forward, modulation = 1024, 2048, 3072
    whole = attention + forward + modulation
    mean = (4 * (attention + forward) + 16 * modulation) / whole
    assert bits["weights"] == pytest.approx(mean)
    assert bits["inputs"] == pytest.approx((6 * attention + 16 * (forward + modulation)) / whole)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_of_every_profile_can_be_made_and_loaded(
    name: str, tmp_path: Path, inputs: dict[str, Path], job: Job
) -> None:
    """With groups that suit a network of this size."""
    arm = deepcopy(ARMS[name])
    if arm["base"]["group"]:
        arm["base"]["group"] = 8
    folder = made(tmp_path, inputs, replace(job, seeds=(0,)), arm=arm, bits=["W4A4"])
    own = folder / "W4A4/seed0"
    told, taught = read_json(own / "quantized.json"), foundation.load(inputs[TEACH])
    assert (told["learned"] > 0) == Arm.model_validate(arm).base.learns
    assert len(told["members"]) == (0 if arm["selection"] is None else COUNT)
    model = kept.load(own, taught.denoiser)
    assert stored(model, dense=True).per_weight == pytest.approx(told["bits"]["stored_per_weight"])
    x, t = drawn(2, *taught.shape), torch.tensor([30, 90])
    text, _ = taught.read(torch.tensor([[2, 4], [3, 5]]))
    with torch.no_grad():
        gap = (model(x, t, text) - taught.denoiser(x, t, text)).square().mean()
    assert bool(gap.isfinite()) and float(gap) > 0


def test_bits_without_a_meaning_are_refused() -> None:
    with pytest.raises(UserError, match="'W4A9' names no bits"):
        quantize.Params.model_validate(values(bits=["W4A9"]))
    with pytest.raises(ValidationError):
        quantize.Params.model_validate(values(held=0))
