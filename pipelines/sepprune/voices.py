"""From the prompts of single speakers to a data set of mixtures (the desk's source)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.sepprune.data import CROPS, FILES, MANIFEST, SPEECH
from stages.core.errors import UserError
from stages.core.files import write_json
from stages.core.pictures import add_exhibit
from stages.prepare import audio, datalock, debs, mixtures
from stages.prepare.audio import Clip
from stages.prepare.datalock import Package, combined
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from pipelines.sepprune.prepare import Params
    from stages.core.job import Job

DATASET = "telephone prompts"
PACKAGE_RATE = 8000
SPLITS = ("train", "valid", "seen", "unseen")


@dataclass(frozen=True)
class Recording:
    """A clip in its set. `start` is its place in speech.npy; `crops` are offsets in the clip."""

    voice: str
    clip: Clip
    split: str
    level_db: float
    crops: np.ndarray
    start: int = -1


def prepare(params: Params, out: Path, job: Job) -> None:
    """Write speech, its index, the fixed sets and the manifest into `out`.

    Raises:
        UserError: the packages cannot be had, or a parameter does not fit them.
    """
    if params.rate != PACKAGE_RATE:
        raise UserError(
            f"params.yaml: 'sepprune.prepare.rate' is {params.rate}, but the packages' voices have "
            f"{PACKAGE_RATE} Hz"
        )
    packages = datalock.read(job.root).of(paper=job.paper, index="debian")
    voices = {p.voice.id: (name, p) for name, p in packages.items() if p.voice is not None}
    _check(params, sorted(voices))
    places = debs.fetch(job.root, packages)
    clips: dict[str, list[Clip]] = {}
    same: list[tuple[str, str]] = []
    with job.progress(len(voices), "reading voices") as bar:
        for voice, (name, package) in sorted(voices.items()):
            found: list[Clip] = []
            for take in package.take:
                found += audio.clips(places[name] / take, params.rate, params.trim_db, params.skip)
            clips[voice], ties = audio.distinct(found)
            same += ties
            bar.advance(note=voice)
    recordings = _place(_split(params, clips, same))
    fixed = {split: _fixed(params, recordings, voices, split) for split in SPLITS[1:]}
    _write(params, out, recordings, fixed, voices)
    _describe(params, out, clips, recordings, voices)
    manifest = out / MANIFEST
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    job.track.dataset(DATASET, digest, ", ".join(sorted(packages)))


def _check(params: Params, voices: list[str]) -> None:
    unknown = sorted(set(params.held_out) - set(voices))
    if unknown:
        raise UserError(
            f"params.yaml: 'sepprune.prepare.held_out' names {', '.join(unknown)}; "
            f"{datalock.NAME} has the voices {', '.join(voices)}"
        )
    seen = len(voices) - len(set(params.held_out))
    if seen < 2 or len(set(params.held_out)) < 2:
        raise UserError(
            "params.yaml: 'sepprune.prepare.held_out' must name at least two voices and leave two, "
            f"since a mixture takes two; {datalock.NAME} has {', '.join(voices)}"
        )


def _split(
    params: Params, clips: dict[str, list[Clip]], same: list[tuple[str, str]]
) -> list[Recording]:
    """Every recording long enough for a crop, with its set; those that fit in none left out."""
    length = round(params.seconds * params.rate)
    long = {v: [c for c in found if len(c.samples) >= length] for v, found in clips.items()}
    seconds: dict[str, float] = defaultdict(float)
    for found in long.values():
        for clip in found:
            seconds[clip.name] += len(clip.samples) / params.rate
    if not seconds:
        raise UserError(
            f"no recording has {params.seconds} s; lower 'sepprune.prepare.seconds' in params.yaml"
        )
    dealt = mixtures.split_names(seconds, same, params.shares.model_dump(), params.seed)
    recordings = []
    for voice, found in sorted(long.items()):
        held_out = voice in params.held_out
        # A held-out voice is heard in the unseen test alone, and only with names that no other
        # voice says in training or validation: what is new there is the speaker and the words.
        names = {"test": "unseen"} if held_out else {"train": "train", "valid": "valid"}
        names |= {} if held_out else {"test": "seen"}
        for clip in found:
            split = names.get(dealt[clip.name])
            if split is None:
                continue
            crops = mixtures.starts(
                clip.samples, params.rate, length, params.active_db, params.active_share
            )
            if len(crops):
                level = audio.level_db(clip.samples, params.rate, params.active_db)
                recordings.append(Recording(voice, clip, split, level, crops))
    return recordings


def _place(recordings: list[Recording]) -> list[Recording]:
    placed, start = [], 0
    for item in sorted(recordings, key=lambda r: (SPLITS.index(r.split), r.voice, r.clip.file)):
        placed.append(replace(item, start=start))
        start += len(item.clip.samples)
    return placed


def _fixed(
    params: Params,
    recordings: list[Recording],
    voices: dict[str, tuple[str, Package]],
    split: str,
) -> list[dict[str, Any]]:
    """The rows of a fixed set's manifest; offsets count from the start of the package's file."""
    length = round(params.seconds * params.rate)
    crops: dict[str, list[tuple[Recording, int]]] = defaultdict(list)
    for item in recordings:
        if item.split == split:
            offsets = mixtures.apart(item.crops, length).tolist()
            crops[item.voice] += [(item, offset) for offset in offsets]
    if len(crops) < 2:
        raise UserError(
            f"the set '{split}' has voices {sorted(crops)}, and a mixture takes two; change "
            "'sepprune.prepare.shares', '.seed' or '.seconds' in params.yaml"
        )
    key = "test" if split == "seen" else split
    count = getattr(params.mixtures, key)
    sizes = {voice: len(found) for voice, found in crops.items()}
    rows = []
    for index, pick in enumerate(
        mixtures.fixed_set(sizes, count, params.gain_db, split, params.seed)
    ):
        row: dict[str, Any] = {"id": f"{split}-{index:04d}"}
        for k, voice, crop, sign in zip("12", pick.voices, pick.crops, (0.5, -0.5), strict=True):
            item, offset = crops[voice][crop]
            row[f"voice_{k}"] = voice
            row[f"file_{k}"] = item.clip.file
            row[f"offset_{k}"] = offset + item.clip.skipped
            gain = params.level_db - item.level_db + sign * pick.gain_db
            row[f"gain_{k}_db"] = f"{gain:.4f}"
        row["licence"] = combined(voices[voice][1].licence for voice in pick.voices)
        rows.append(row)
    return rows


def _write(
    params: Params,
    out: Path,
    recordings: list[Recording],
    fixed: dict[str, list[dict[str, Any]]],
    voices: dict[str, tuple[str, Package]],
) -> None:
    np.save(out / SPEECH, np.concatenate([r.clip.samples for r in recordings]).astype("<i2"))
    train = [r.start + r.crops for r in recordings if r.split == SPLITS[0]]
    np.save(out / CROPS, np.concatenate(train).astype("<i4"))
    index = [
        {
            "voice": r.voice,
            "file": r.clip.file,
            "split": r.split,
            "start": r.start,
            "frames": len(r.clip.samples),
            "skipped": r.clip.skipped,
            "level_db": f"{r.level_db:.4f}",
        }
        for r in recordings
    ]
    write_csv(out / FILES, index)
    for split, rows in fixed.items():
        write_csv(out / f"{split}.csv", rows)
    files = [SPEECH, CROPS, FILES, *(f"{split}.csv" for split in fixed)]
    write_json(
        out / MANIFEST,
        {
            "source": params.source,
            "dataset": DATASET,
            "rate": params.rate,
            "seconds": params.seconds,
            "level_db": params.level_db,
            "gain_db": params.gain_db,
            "splits": list(SPLITS),
            "counts": {
                split: {
                    "files": sum(r.split == split for r in recordings),
                    "minutes": _minutes([r for r in recordings if r.split == split], params.rate),
                    "mixtures": len(fixed[split]) if split in fixed else None,
                }
                for split in SPLITS
            },
            "voices": {
                voice: {
                    "speaker": package.voice.speaker if package.voice else "",
                    "language": package.voice.language if package.voice else "",
                    "author": package.author,
                    "attribution": package.attribution,
                    "licence": package.licence,
                    "package": f"{name} {package.version}",
                    "sha256": package.sha256,
                    "held_out": voice in params.held_out,
                }
                for voice, (name, package) in voices.items()
            },
            "sha256": {f: hashlib.sha256((out / f).read_bytes()).hexdigest() for f in files},
        },
    )


def _minutes(recordings: list[Recording], rate: int) -> float:
    return round(sum(len(r.clip.samples) for r in recordings) / rate / 60, 2)


def _describe(
    params: Params,
    out: Path,
    clips: dict[str, list[Clip]],
    recordings: list[Recording],
    voices: dict[str, tuple[str, Package]],
) -> None:
    rows = []
    for voice, (_, package) in sorted(voices.items()):
        own = [r for r in recordings if r.voice == voice]
        row: dict[str, Any] = {
            "speaker": package.voice.speaker if package.voice else voice,
            "language": package.voice.language if package.voice else "",
            "licence": package.licence,
            "recordings": len(clips[voice]),
        }
        for split in SPLITS:
            minutes = _minutes([r for r in own if r.split == split], params.rate)
            row[f"{split} (min)"] = f"{minutes:.1f}" if minutes else "–"
        rows.append(row)
    write_csv(out / "voices.csv", rows)
    add_exhibit(
        out,
        kind="table",
        name="voices",
        file="voices.csv",
        title="The voices and where they are heard",
        caption=(
            "Minutes of speech after trimming, in recordings of at least "
            f"{params.seconds:g} s. A file name is in one set only, whoever speaks; a voice with "
            "minutes under “unseen” is heard nowhere else."
        ),
    )
