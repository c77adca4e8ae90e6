"""The stage `calibrate`."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from pipelines.s2q_vdit import calibrate
from pipelines.s2q_vdit.nets import patches
from pipelines.s2q_vdit.pool import Pool
from pipelines.s2q_vdit.selection import choose, sensitivity
from stages.core import environment
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import listing, read_json
from stages.core.job import Job
from tests.jobs import for_tests
from tests.pipelines.s2q_vdit import small

VALUES: dict[str, Any] = {
    "prompts": 6, "count": 4, "norm": "spectral", "batch": 4, "seeds": ["0-1", "3"],
}  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with for_tests(tmp_path, Node("s2q_vdit", "calibrate", None, None, (), (), ())) as made:
        environment.make_deterministic(1)
        yield made


def calibrated(root: Path, job: Job, out: str = "out", **changes: Any) -> Path:
    folder = root / out
    folder.mkdir()
    params = calibrate.Params.model_validate(VALUES | changes)
    calibrate.run(params, small.inputs(root / f"in-{out}"), folder, job)  # type: ignore[arg-type]
    return folder


def test_a_pool_for_every_seed_and_what_salience_takes(tmp_path: Path, job: Job) -> None:
    folder = calibrated(tmp_path, job)
    pools = {n: Pool.load(folder / f"seed{n}.safetensors") for n in (0, 1, 3)}
    with (folder / "salience.csv").open(newline="") as file:
        table = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in table] == [1, 2, 3, 4]
    assert [row["time"] for row in table] == [99, 79, 59, 39]
    # Of all members of all pools as many are chosen as asked for.
    assert sum(row["chosen"] for row in table) * 6 == pytest.approx(4)
    told = read_json(folder / "pool.json")
    assert told["sampling"] == {"steps": 5, "guidance": 2.0} and set(told["seeds"]) == set("013")
    for seed, pool in pools.items():
        own, chosen = told["seeds"][str(seed)], choose("sds", pool.diff, pool.quant, 4)
        assert own["members"] == 24 and -1 <= own["correlation"] <= 1
        assert own["prompts"] == len({p for p, _ in chosen})
        assert own["steps"] == len({s for _, s in chosen})
        assert own["neighbours"] == sum((p, s + 1) in chosen for p, s in chosen)
        steps = [s + 1 for _, s in chosen]
        assert own["chosen"] == {str(s): steps.count(s) for s in set(steps)}
        # And the same of the measure without the mean of a member's tokens.
        tokens = patches(small.denoiser(), pool.states)
        varied = sensitivity(tokens - tokens.mean(-2, keepdim=True), "spectral")
        others = choose("sds", pool.diff, varied, 4)
        assert sum(own["centred"]["chosen"].values()) == 4
        assert own["centred"]["shared"] == len(set(chosen) & set(others))
        for key, one in (("correlation", pool.diff), ("with_quant", pool.quant)):
            wanted = numpy.corrcoef(one.flatten(), varied.flatten())[0, 1]
            assert own["centred"][key] == pytest.approx(wanted)
    assert all(0 <= row["centred"] <= 1 for row in table)
    assert (folder / "pictures/salience.svg").is_file()


def test_the_caption_says_which_steps_are_chosen(tmp_path: Path, job: Job) -> None:
    folder = calibrated(tmp_path, job)
    pools = read_json(folder / "pool.json")["seeds"].values()
    steps = sorted(int(step) for pool in pools for step in pool["chosen"])
    (shown,) = read_json(folder / "exhibits.json")
    assert f"steps {steps[0]} to {steps[-1]} of 4" in shown["caption"]


def test_salience_may_leave_the_mean_of_tokens_out(tmp_path: Path, job: Job) -> None:
    folder = calibrated(tmp_path, job, norm="centred")
    for own in read_json(folder / "pool.json")["seeds"].values():
        assert own["centred"]["with_quant"] == pytest.approx(1)
        assert own["centred"]["chosen"] == own["chosen"] and own["centred"]["shared"] == 4


def test_two_runs_leave_the_same_bytes(tmp_path: Path, job: Job) -> None:
    one, two = (calibrated(tmp_path, job, out) for out in ("one", "two"))
    names = [path.relative_to(one) for path in listing(one)]
    assert names == [path.relative_to(two) for path in listing(two)]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_a_pool_too_small_for_the_set_is_told_here(tmp_path: Path, job: Job) -> None:
    with pytest.raises(UserError, match="'sds' cannot give 30 samples"):
        calibrated(tmp_path, job, count=30)
