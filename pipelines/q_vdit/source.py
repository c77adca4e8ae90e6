"""The foundation's teacher on which this paper stands, and how it is sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.foundations.video import teacher
from pipelines.foundations.video.gate import Sampling
from pipelines.q_vdit import plan
from stages.core.files import read_json

if TYPE_CHECKING:
    from pipelines.foundations.video.teacher import Teacher
    from stages.core.job import Inputs, Job

NAME = "latte"
"""The teacher with attention in space and in time apart, as the paper's networks have it."""


def open_teacher(inputs: Inputs, job: Job) -> Teacher:
    """
    Raises:
        UserError: the teacher attends to space and time at once.
    """
    taught = teacher.load(inputs[f"foundations/video/teach/{NAME}"], job.device, job.root)
    plan.check_family(taught.denoiser)
    return taught


def sampling_of(inputs: Inputs) -> Sampling:
    """How the gate sampled the teacher: it is calibrated as it is used."""
    gate = read_json(inputs[f"foundations/video/gate/{NAME}"] / "gate.json")
    return Sampling.model_validate(gate["sampling"])
