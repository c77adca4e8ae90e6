"""The stage `claims`, the same for every paper: tables of scores in, verdicts out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from stages.claims.model import load
from stages.claims.verdict import verdicts
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import write_json
from stages.core.params import Borrowed
from stages.core.results import read_scores

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

SCHEMA = "1.0"
"""Version of the file; the first number rises when a reader would break."""


class Params(core.Params):
    """The profile decides what a claim may expect to find in the scores."""

    profile: Annotated[Literal["smoke", "desk", "lab", "paper"], Borrowed("common.profile")]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Write `<paper>.json`: the profile, and one entry per claim, see `verdict.verdicts`.

    Raises:
        UserError: claims.yaml breaks its schema, is another paper's, or names what the scores of
            this profile lack.
    """
    path = job.root / "pipelines" / job.paper / "claims.yaml"
    sheet = load(path)
    if sheet.paper != job.paper:
        raise UserError(f"{job.paper}/claims.yaml: paper is '{sheet.paper}', not '{job.paper}'")
    scores = {
        stage: read_scores(inputs[stage] / "scores.parquet")
        for stage in ("evaluate", "bench")
        if stage in inputs
    }
    entries = verdicts(sheet, scores, params.profile)
    head = {"schema_version": SCHEMA, "paper": job.paper, "profile": params.profile}
    write_json(out / f"{job.paper}.json", head | {"claims": entries})
    tally = Counter(entry["verdict"] for entry in entries)
    job.log.info("%s", ", ".join(f"{count} {verdict}" for verdict, count in tally.items()))
