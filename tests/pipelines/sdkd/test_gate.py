"""The gate: a teacher that is not clearly better stops all that would follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.sdkd import gate
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.files import read_json, write_json, write_text
from tests.jobs import for_tests

NODE = Node("sdkd", "gate", None, None, (), (), ())
SEARCH = "student,rate,valid_mse\nunet,0.5,0.25\nunet,1,0.2\nmixer,0.5,0.1\nmixer,1,0.16\n"


def asked(root: Path, less: float | None, teacher: float) -> Path:
    write_json(root / "teach/alternet/training.json", {"valid_mse": teacher})
    (root / "none").mkdir(exist_ok=True)
    write_text(root / "none/search.csv", SEARCH)
    out = root / "out"
    out.mkdir(exist_ok=True)
    inputs = {"teach": root / "teach", "sdkd/tune/none": root / "none"}
    with for_tests(root, NODE) as job:
        gate.run(gate.Params(less=less, teacher="alternet"), inputs, out, job)  # type: ignore[arg-type]
    return out


def test_each_student_counts_with_its_best_rate(tmp_path: Path) -> None:
    found = read_json(asked(tmp_path, 25.0, 0.07) / "gate.json")
    assert found["students"] == {"unet": 0.2, "mixer": 0.1}
    assert found["percent_less"] == pytest.approx({"unet": 65.0, "mixer": 30.0})


@pytest.mark.parametrize(("teacher", "percent"), [(0.08, "20 %"), (0.11, "-10 %")])
def test_a_teacher_that_is_not_clearly_better_stops_the_pipeline(
    tmp_path: Path, teacher: float, percent: str
) -> None:
    with pytest.raises(UserError, match=f"{percent} below the 0.1 of .* 'mixer'.*sdkd.gate.less"):
        asked(tmp_path, 25.0, teacher)
    assert not (tmp_path / "out/gate.json").exists()


def test_null_lets_any_teacher_pass(tmp_path: Path) -> None:
    assert read_json(asked(tmp_path, None, 0.5) / "gate.json")["teacher"] == 0.5
