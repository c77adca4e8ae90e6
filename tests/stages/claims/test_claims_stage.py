"""The stage: files in, file out."""

import json

import pytest
import yaml

from stages.claims import stage
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.params import borrowed, build
from stages.core.results import write_scores
from tests.jobs import for_tests
from tests.stages.claims.claimed import claim, rows, spread, table


@pytest.fixture
def project(tmp_path):
    """A paper `demo` with scores and one claim; `run` gives the bytes of its verdicts."""
    scores = table(rows(spread(9)), rows(spread(8, seed=7), variant="base"))
    (tmp_path / "work/evaluate").mkdir(parents=True)
    write_scores(tmp_path / "work/evaluate/scores.parquet", scores)
    path = tmp_path / "pipelines/demo/claims.yaml"
    path.parent.mkdir(parents=True)

    def run(*claims, paper="demo"):
        path.write_text(yaml.safe_dump({"paper": paper, "claims": list(claims)}))
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        with for_tests(tmp_path, Node("demo", "claims", None, None, (), (), ())) as job:
            inputs = {"evaluate": tmp_path / "work/evaluate"}
            stage.run(stage.Params(profile="desk"), inputs, out, job)
        assert [p.name for p in out.iterdir()] == ["demo.json"]
        return (out / "demo.json").read_bytes()

    return run


def test_verdicts_are_written_the_same_each_time(project):
    first = project(claim(), claim(id="other"))
    assert first == project(claim(), claim(id="other"))
    found = json.loads(first)
    assert (found["paper"], found["profile"]) == ("demo", "desk")
    assert [c["id"] for c in found["claims"]] == ["better", "other"]
    wanted = {"paper", "id", "verdict", "value", "low", "high", "published", "unit", "rule",
              "seeds", "profile", "claim", "where", "measured", "differs", "cells", "reason",
              "timing"}  # fmt: skip
    assert wanted <= set(found["claims"][0])


def test_another_papers_claims(project):
    with pytest.raises(UserError, match="paper is 'other', not 'demo'"):
        project(claim(), paper="other")


def test_the_profile_is_borrowed():
    assert borrowed(stage.Params) == {"profile": "common.profile"}
    values = {"common": {"profile": "lab"}, "demo": {}}
    assert build(stage.Params, values, "demo", "claims").profile == "lab"
    with pytest.raises(UserError, match=r"common\.profile"):
        build(stage.Params, {"common": {"profile": "big"}, "demo": {}}, "demo", "claims")
