"""The data set: short clips with captions, from one of four sources.

Desk: digits that move (`digits.py`). By `source`: games played here (`games.py`), real footage that
a package carries (`footage.py`), or a folder of the user's (`folder.py`). Whatever the source, no
two splits share what their clips are made from.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator
from safetensors.numpy import save

from pipelines.foundations.video import captions, digits, folder, footage, games
from pipelines.foundations.video.data import (
    CAPTIONS,
    CLIPS,
    LABELS,
    MANIFEST,
    PROMPTS,
    SPLITS,
    TRAIN,
)
from pipelines.foundations.video.made import Counts, Form, Made, Part
from pipelines.foundations.video.strips import BUDGET, strips
from stages.core import params as core
from stages.core import pictures
from stages.core.files import write_bytes, write_json
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

SHOWN, FEWEST = {"train": 16, "valid": 8, "test": 8}, 4
"""Clips drawn of each split; of large ones fewer."""
NAMES = {"train": "Training", "valid": "Validation", "test": "Test"}


class Params(core.Params):
    """
    Attributes:
        source: which of the sections below counts.
        frames: of a clip.
        height, width: of a frame, in pixels.
        clips: in each split; of a folder at most so many.
        seed: of all that is drawn.
    """

    source: Literal["digits", "games", "footage", "folder"]
    frames: int = Field(ge=2)
    height: int = Field(ge=8)
    width: int = Field(ge=8)
    clips: Counts
    seed: int = Field(ge=0)
    digits: digits.Digits
    games: games.Games
    footage: footage.Footage
    folder: folder.Folder

    @model_validator(mode="after")
    def _folder(self) -> Params:
        if self.source == "folder" and self.folder.root is None:
            raise ValueError("with source 'folder', folder.root must name it")
        return self


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Make the data set, and show what it looks like.

    Raises:
        UserError: the source is not there, or not as expected; the message says how to get it.
    """
    form = Form(params.frames, params.height, params.width)
    made = _make(params, form, job)
    train = made.parts[TRAIN]
    known, length = captions.vocabulary(train.captions), captions.longest(train.captions)
    checksums = {}
    for split in SPLITS:
        part = made.parts[split]
        prompts = captions.encode(part.captions, known, length)
        data = save({CLIPS: part.clips, LABELS: part.labels, PROMPTS: prompts})
        write_bytes(out / f"{split}.safetensors", data)
        checksums[split] = hashlib.sha256(data).hexdigest()
    write_json(out / CAPTIONS, {split: made.parts[split].captions for split in SPLITS})
    manifest = {
        **made.about,
        "source": params.source,
        "seed": params.seed,
        "frames": params.frames,
        "size": [params.height, params.width],
        "channels": int(train.clips.shape[-1]),
        "labels": [{"name": name, "classes": own} for name, own in made.classes.items()],
        "vocabulary": known,
        "length": length,
        "counts": {split: len(made.parts[split].clips) for split in SPLITS},
        "checksums": checksums,
    }
    write_json(out / MANIFEST, manifest)
    _show(made, manifest, out)
    digest = hashlib.sha256("".join(checksums.values()).encode()).hexdigest()
    job.track.dataset(manifest["dataset"], digest, manifest["from"])


def _make(params: Params, form: Form, job: Job) -> Made:
    rest = (form, params.clips, params.seed, job)
    match params.source:
        case "digits":
            return digits.make(params.digits, *rest)
        case "games":
            return games.make(params.games, *rest)
        case "footage":
            return footage.make(params.footage, *rest)
        case "folder":
            return folder.make(params.folder, *rest)


def spread(part: Part, most: int) -> list[int]:
    """Places of clips of different kinds: kinds take turns, so those of the first turn, spread."""
    kinds = min(len(np.unique(part.labels, axis=0)), len(part.clips))
    return sorted({place * max(kinds, most) // most % len(part.clips) for place in range(most)})


def _show(made: Made, manifest: dict[str, Any], out: Path) -> None:
    """Draw the first clips of each split, and count clips and what they are made from."""
    for split, most in SHOWN.items():
        part = made.parts[split]
        room = max(FEWEST, BUDGET // max(1, part.clips[0].size))
        chosen = spread(part, min(most, room))
        clips, titles = part.clips[chosen], [part.captions[place] for place in chosen]
        pictures.save(
            out,
            split,
            strips(clips, titles, columns=2),
            title=f"{manifest['dataset']}: {NAMES[split].lower()} clips",
            caption=f"{len(clips)} of {len(part.clips)} clips, frame by frame from left to right, "
            f"under their captions: {manifest['frames']} frames of {manifest['size'][0]} × "
            f"{manifest['size'][1]} pixels. Of longer clips eight frames are drawn, and large ones "
            "smaller.",
            alt=f"{len(clips)} strips of frames, such as '{titles[0]}'.",
            group="clips",
        )
    rows = [
        {
            "split": NAMES[split],
            "clips": len(made.parts[split].clips),
            f"made from ({manifest['source is']})": manifest["sources"][split],
            "captions": len(set(made.parts[split].captions)),
            "mean brightness": f"{made.parts[split].clips.mean() / 255:.4f}",
        }
        for split in SPLITS
    ]
    write_csv(out / "splits.csv", rows)
    pictures.add_exhibit(
        out,
        kind="table",
        name="splits",
        file="splits.csv",
        title=f"{manifest['dataset']}: splits",
        caption="What clips are made from is in one split only. Brightness: 0 black, 1 white.",
    )
