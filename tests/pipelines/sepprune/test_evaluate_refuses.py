"""What the evaluate stage refuses, and what it says then."""

import pytest

from stages.core.errors import UserError
from stages.core.files import write_json
from tests.pipelines.sepprune.evaluated import made, parameters, run, snapshots_of


@pytest.fixture
def project(tmp_path):
    return made(tmp_path)


def test_an_arm_that_params_does_not_name_is_refused(project, tmp_path):
    fewer = parameters(**{"prune": {"variants": {"dense_more": None}}})
    with pytest.raises(UserError, match=r"prune holds dense_more, which params\.yaml does not"):
        run(project, tmp_path / "out", fewer)


def test_a_missing_arm_is_refused(project, tmp_path):
    more = parameters(prune={"variants": {"l1": {"select": "l1", "backbones": ["sudormrf"]}}})
    with pytest.raises(UserError, match="lacks l1"):
        run(project, tmp_path / "out", more)


def test_other_seeds_or_backbones_are_refused(project, tmp_path):
    with pytest.raises(UserError, match="0-1"):
        run(project, tmp_path / "out", parameters(prune={"seeds": ["0-2"]}))
    arm = {"select": "dense_more", "backbones": ["sudormrf", "tdanet"]}
    with pytest.raises(UserError, match="lacks tdanet"):
        run(project, tmp_path / "b", parameters(prune={"variants": {"dense_more": arm}}))


def test_seed_ranges_must_not_overlap(project, tmp_path):
    with pytest.raises(UserError, match="two ranges"):
        run(project, tmp_path / "out", parameters(prune={"seeds": ["0-1", "1"]}))


def test_an_arm_without_a_snapshot_after_one_epoch_is_refused(project, tmp_path):
    with pytest.raises(UserError, match=r"'one_epoch'.*finetune\.at"):
        run(project, tmp_path / "out", parameters(prune={"finetune": {"epoch_updates": 15}}))


def test_arms_without_a_common_total_are_refused(project, tmp_path):
    folder = project / "work/sepprune/prune/scratch/0-1/afrcnn/seed0"
    snapshots = [{**s, "total": s["total"] + 7} for s in snapshots_of("scratch")]
    write_json(folder / "snapshots.json", snapshots)
    with pytest.raises(UserError, match=r"'final'.*finetune\.totals"):
        run(project, tmp_path / "out")


def test_an_unfinished_arm_is_refused(project, tmp_path):
    (project / "work/sepprune/prune/scratch/0-1/afrcnn/seed0/snapshots.json").unlink()
    with pytest.raises(UserError, match=r"scratch/0-1/afrcnn/seed0 has no snapshots\.json"):
        run(project, tmp_path / "out")


def test_examples_must_exist(project, tmp_path):
    late = parameters(evaluate={"examples": {"items": {"seen": [0, 5]}}})
    with pytest.raises(UserError, match=r"examples\.items\.seen names \[5\].*0 to 4"):
        run(project, tmp_path / "out", late)
    with pytest.raises(UserError, match=r"examples\.backbone is 'tdanet'"):
        parameters(evaluate={"examples": {"backbone": "tdanet"}})


def test_wrong_parameters_name_the_key():
    with pytest.raises(UserError, match=r"sepprune\.evaluate\.sdr_at"):
        parameters(evaluate={"sdr_at": ["later"]})
    with pytest.raises(UserError, match=r"unknown key 'sepprune\.evaluate\.batch'"):
        parameters(evaluate={"batch": 3})
