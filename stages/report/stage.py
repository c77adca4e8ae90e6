"""The stage `page`: a paper's page from its result files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import params as core
from stages.report.page import write_page

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Params(core.Params):
    """Nothing to set: the page shows what is there."""


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Write the page; the door puts it into reports/papers/ and refreshes the board.

    Args:
        params: empty.
        inputs: the stages whose results are shown.
        out: scratch folder.
        job: gives root, paper and the deps that dvc.yaml lists.
    """
    write_page(job.root, job.paper, job.node.data, out)
