"""What evaluation will not do: score what is missing, unknown or out of place."""

import shutil

import pytest

from stages.core.errors import UserError
from tests.pipelines.sdkd.evaluated import VARIANTS, made, parameters, run


@pytest.fixture
def root(tmp_path):
    return made(tmp_path)


def refused(root, message, **changes):
    with pytest.raises(UserError, match=message):
        run(root, root / "out", parameters(**changes))
    assert not list((root / "out").glob("scores*"))


def test_an_arm_that_params_yaml_does_not_name(root):
    fewer = {k: v for k, v in VARIANTS.items() if k != "output"}
    refused(root, "holds output, which params.yaml does not name", distill={"variants!": fewer})


def test_an_arm_that_is_missing(root):
    shutil.rmtree(root / "work/sdkd/distill/sdkd")
    refused(root, "lacks sdkd")


def test_a_student_that_is_missing(root):
    shutil.rmtree(root / "work/sdkd/distill/sdkd/0-1/mixer")
    refused(root, "lacks mixer")


def test_weights_that_are_missing(root):
    (root / "work/sdkd/distill/sdkd/0-1/mixer/seed1/model.safetensors").unlink()
    refused(root, "0-1/mixer/seed1 has no model.safetensors")


def test_a_teacher_that_was_not_trained(root):
    refused(root, "teach trained: alternet, simvp", calibrate={"teacher": "uniformer"})


def test_bands_that_end_within_the_grid(root):
    refused(root, "go up to 11.31", evaluate={"bands": [0.0, 3.0, 11.0]})


def test_a_window_or_lead_that_is_not_there(root):
    refused(root, "the windows 0 to 4", evaluate={"examples": {"item": 5}})
    shutil.rmtree(root / "out")
    refused(root, "the horizon is 4", evaluate={"examples": {"leads": [2, 5]}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate": {"bands": [0.0, 5.0, 3.0, 12.0]}}, "bands must rise from 0"),
        ({"evaluate": {"bands": [1.0, 12.0]}}, "bands must rise from 0"),
        ({"evaluate": {"examples": {"student": "resnet"}}}, "has the students mixer, unet"),
        ({"distill": {"variants": {"teacher_two": {"students": ["unet"]}}}}, "no arm may be"),
        ({"evaluate": {"batch": 1}}, r"unknown key 'sdkd\.evaluate\.batch'"),
        (
            {"distill": {"variants": {"empty": {}}}},
            r"the key 'sdkd\.distill\.variants\.empty\.students' is missing",
        ),
    ],
)
def test_parameters_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        parameters(**changes)
