"""A folder of the user's: video files with captions.

    <root>/captions.csv           columns file, caption; class and split where they are known
    <root>/<name>.mp4, <name>.txt  or a caption beside each file
    <root>/<class>/<name>.mp4      or none: the folder's name is class and caption

The first of the three that a file has counts. Files are dealt out whole: windows of one file never
stand on two sides. Where several files were cut from one recording, say so by the column split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from pipelines.foundations.video.data import SPLITS
from pipelines.foundations.video.made import Bytes, Counts, Form, Made, Part, Shares
from stages.core import params as core
from stages.core.digests import of_file
from stages.core.errors import UserError
from stages.core.files import listing
from stages.core.seeding import numpy_generator
from stages.prepare import video
from stages.prepare.rasters import fit
from stages.prepare.tables import read_csv

if TYPE_CHECKING:
    from stages.core.job import Job

TABLE = "captions.csv"
ONE_CLASS = "all"
"""What files without a class are called together."""


class Folder(core.Params):
    """
    Attributes:
        root: the folder, best given relative to the project; null: there is none.
        every: frames of a file from one frame of a clip to the next.
        windows: clips taken from a file, one after the other from its beginning; of a file that is
            too short for so many, those that there are.
        shares: of the files whose split the table does not give.
    """

    root: str | None
    every: int = Field(ge=1)
    windows: int = Field(ge=1)
    shares: Shares


@dataclass(frozen=True)
class Film:
    """A video file: its path from the root, its caption, its class; its split where it is given."""

    path: str
    caption: str
    kind: str
    split: str | None


def make(recipe: Folder, form: Form, counts: Counts, seed: int, job: Job) -> Made:
    """Read the files; of each split at most the wanted number of clips.

    Raises:
        UserError: there is no such folder, a file has no caption or cannot be read, or a split
            would be empty.
    """
    if recipe.root is None:
        raise UserError("params.yaml: foundations.video.prepare.folder.root must name a folder")
    root = job.root / recipe.root  # an absolute path stays as it is
    films = find(root)
    dealt = deal(films, recipe.shares, seed)
    kinds = sorted({film.kind for film in films})
    digest, parts, used = hashlib.sha256(), {}, {}
    with job.progress(sum(map(len, dealt.values())), "reading videos") as bar:
        for split in SPLITS:
            wanted, found, whose = getattr(counts, split), list[Bytes](), list[Film]()
            used[split] = 0
            for film in dealt[split]:
                if len(found) < wanted:
                    own = windows(root, film, recipe, form)[: wanted - len(found)]
                    digest.update(of_file(root / film.path).encode())
                    used[split] += bool(own)
                    found += own
                    whose += [film] * len(own)
                bar.advance(note=film.path)
            if not found:
                raise UserError(
                    f"{root} gives no clip for '{split}': of its {len(dealt[split])} files none "
                    f"has {span(recipe, form)} frames; see foundations.video.prepare.folder"
                )
            labels = np.array([[kinds.index(film.kind)] for film in whose], dtype=np.int64)
            parts[split] = Part(np.stack(found), labels, [film.caption for film in whose])
    return Made(
        parts,
        {"class": kinds},
        {
            "dataset": root.name,
            "author": "its publisher",
            "origin": "a folder of the user's",
            "licence": "that of its publisher; the files do not carry it",
            "from": recipe.root,
            "sha256 of its source": digest.hexdigest(),
            "decoder": video.version(),
            "recipe": recipe.model_dump(),
            "sources": used,
            "source is": "video file",
        },
    )


def find(root: Path) -> list[Film]:
    """The folder's video files, by path.

    Raises:
        UserError: there is none, one has no caption, or the table names one that is not there or
            a split that does not exist.
    """
    if not root.is_dir():
        raise UserError(f"{root} (foundations.video.prepare.folder.root) is not a folder")
    there = [p for p in listing(root) if p.suffix.lower() in video.ENDINGS]
    if not there:
        raise UserError(f"{root} holds no video file ({', '.join(video.ENDINGS)})")
    table = _table(root, {p.relative_to(root).as_posix() for p in there})
    films = []
    for path in there:
        name = path.relative_to(root)
        row = table.get(name.as_posix(), {})
        beside = path.with_suffix(".txt")
        folder = name.parts[0] if len(name.parts) > 1 else ""
        caption = row.get("caption") or (beside.read_text().strip() if beside.is_file() else "")
        caption = caption or folder.replace("_", " ")
        if not caption:
            raise UserError(
                f"{path} has no caption: give it a row in {TABLE}, a file {beside.name} beside it, "
                "or put it into a folder of its class"
            )
        kind = row.get("class") or folder or ONE_CLASS
        films.append(
            Film(name.as_posix(), " ".join(caption.split()), kind, row.get("split") or None)
        )
    return films


def _table(root: Path, there: set[str]) -> dict[str, dict[str, str]]:
    if not (root / TABLE).is_file():
        return {}
    rows = read_csv(root / TABLE)
    if not rows or not {"file", "caption"} <= set(rows[0]):
        raise UserError(f"{root / TABLE} needs the columns file and caption (class, split)")
    for row in rows:
        if row["file"] not in there:
            raise UserError(f"{root / TABLE} names '{row['file']}', which is not there")
        if (row.get("split") or SPLITS[0]) not in SPLITS:
            raise UserError(
                f"{root / TABLE}: '{row['file']}' is in split '{row['split']}'; allowed: "
                f"{', '.join(SPLITS)}, or nothing"
            )
    return {row["file"]: row for row in rows}


def deal(films: Sequence[Film], shares: Shares, seed: int) -> dict[str, list[Film]]:
    """The files of each split, shuffled; those whose split is given go there."""
    order = [films[i] for i in numpy_generator("folder", seed).permutation(len(films)).tolist()]
    free = [film for film in order if film.split is None]
    return {
        split: [film for film in order if film.split == split] + free[first:last]
        for split, (first, last) in shares.bounds(len(free)).items()
    }


def span(recipe: Folder, form: Form) -> int:
    """Frames of a file that a clip stretches over."""
    return (form.frames - 1) * recipe.every + 1


def windows(root: Path, film: Film, recipe: Folder, form: Form) -> list[Bytes]:
    """Up to `windows` clips (T, H, W, 3) of a file; they share no frame.

    Only what is needed is decoded, and each frame is made small at once: a film of hours does not
    fit into memory.
    """
    frames = video.frames(root / film.path, film.path, recipe.every)
    small = [
        fit(frame[None], form.height, form.width)[0]
        for frame in islice(frames, form.frames * recipe.windows)
    ]
    whole = len(small) // form.frames
    return [np.stack(small[i * form.frames : (i + 1) * form.frames]) for i in range(whole)]
