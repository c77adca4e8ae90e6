"""What two runs of a profile are compared by."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from stages.core.files import write_json, write_text
from stages.core.twice import _compared

DAG = "stages:\n  evaluate: {cmd: x}\n  bench: {cmd: x, meta: {timing: true}}\n"
LOCK = """stages:
  evaluate: {{outs: [{{path: work/p/evaluate, md5: {score}}}]}}
  bench: {{outs: [{{path: work/p/bench, md5: {time}}}]}}
"""


def tree(folder: Path, score: str, time: str, verdict: str, faster: str) -> tuple[Path, list[str]]:
    write_text(folder / "pipelines/p/dvc.yaml", DAG)
    write_text(folder / "pipelines/p/dvc.lock", LOCK.format(score=score, time=time))
    claims = [
        {"id": "better", "timing": False, "verdict": verdict},
        {"id": "faster", "timing": True, "verdict": faster},
    ]
    write_json(folder / "reports/papers/p.json", {"claims": claims})
    return folder, ["p"]


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (("a", "1", "holds", "holds"), 0),
        (("a", "2", "holds", "fails"), 0),
        (("b", "1", "holds", "holds"), 1),
        (("a", "1", "fails", "holds"), 1),
    ],
)
def test_all_but_timings_must_agree(
    tmp_path: Path, second: tuple[str, str, str, str], code: int
) -> None:
    sides = [tree(tmp_path / "a", "a", "1", "holds", "holds"), tree(tmp_path / "b", *second)]
    assert _compared(sides, Console()) == code
