"""The foundation's teacher on which this paper stands, and how it is sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pipelines.foundations.video import teacher
from stages.core.files import read_json

if TYPE_CHECKING:
    from pipelines.foundations.video.teacher import Teacher
    from stages.core.job import Inputs, Job

NAME = "cogvideox"
"""The teacher with joint attention, as the paper's networks have it."""


class Sampling(NamedTuple):
    """Network evaluations of a walk, and the strength of guidance; 1 is none."""

    steps: int
    guidance: float


def open_teacher(inputs: Inputs, job: Job) -> Teacher:
    return teacher.load(inputs[f"foundations/video/teach/{NAME}"], job.device, job.root)


def sampling_of(inputs: Inputs) -> Sampling:
    """How the gate sampled the teacher: it is calibrated as it is used."""
    gate = read_json(inputs[f"foundations/video/gate/{NAME}"] / "gate.json")
    return Sampling(**gate["sampling"])
