"""The data set: two people speaking at once.

Desk: mixtures made from the telephone prompts of seven people, which Debian packages carry
(data.lock). Three of the paper's own sets instead, where `source:` and `root:` name them.

Which voices, and why. Debian's Spanish prompts of the same family (`core-sounds-es`) are credited
to the speaker of the English ones; they would be a second voice of one person, so they are not
used; `es-co` is another person. Two speakers are held out for the unseen test: `menardi` and
`armelle`. Each has a colleague in training of the same language (`carlo`, `june`), so what is new
at test time is the person and not the language; the only man and the only English, Russian and
Spanish voices stay in training; and Armelle's recordings went through the GSM codec, which training
hears from `jimenez`. Had `june` been held out instead of `armelle`, six of the ten training pairs
would differ in codec, and a network could tell them apart by that. Price: in the unseen set the two
voices always differ in codec, as they do in four of the ten seen pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from pipelines.sepprune import voices
from pipelines.sepprune.data import MANIFEST
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import write_json
from stages.core.pictures import add_exhibit
from stages.prepare import published
from stages.prepare.published import LAYOUTS, Item
from stages.prepare.reader import Reader
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Decibel = Annotated[float, Field(gt=0, le=90)]


class Shares(core.Params):
    """How the seconds of speech are dealt out, by file name."""

    train: Share
    valid: Share
    test: Share

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        if abs(self.train + self.valid + self.test - 1) > 1e-9:
            raise ValueError("train, valid and test must add up to 1")
        return self


class Counts(core.Params):
    """Mixtures in the fixed sets; `unseen` is for packages alone."""

    valid: Count
    test: Count
    unseen: Count


class Params(core.Params):
    """
    Attributes:
        source: Debian packages, or the layout of the folder `root`.
        root: folder of the published set, best given relative to the project; null for packages.
        rate: Hz; the packages have 8000.
        seconds: length of every mixture; shorter recordings are left out.
        gain_db: the two voices of a mixture differ by g ~ U(-gain_db, gain_db).
        level_db: level of a voice before that gain, dB re full scale.
        seed: of split, pairs and crops.
        shares: of the split by file name.
        mixtures: how many in each fixed set.
        held_out: voices that are heard in the unseen test alone.
        skip: file names that are not speech (tones; `tt-monkeys` is one noise under five names).
        trim_db: at the ends of a recording, what is this much below its loudest 20 ms is cut off.
        active_db: within a crop, what is this much below that is silence.
        active_share: share of a crop that must not be silence.
    """

    source: Literal["packages", "lrs2mix", "libri2mix", "echoset"]
    root: str | None
    rate: Annotated[int, Field(ge=8000, le=48000)]
    seconds: Annotated[float, Field(ge=0.1, le=60)]
    gain_db: Annotated[float, Field(ge=0, le=40)]
    level_db: Annotated[float, Field(ge=-60, le=-10)]
    seed: Annotated[int, Field(ge=0)]
    shares: Shares
    mixtures: Counts
    held_out: list[str]
    skip: list[str]
    trim_db: Decibel
    active_db: Decibel
    active_share: Annotated[float, Field(ge=0, le=1)]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Make the data set.

    Raises:
        UserError: the data are not there, or not as expected; the message says how to get them.
    """
    if params.source == "packages":
        if params.root is not None:
            raise UserError(
                "params.yaml: 'sepprune.prepare.root' is for published sets; with "
                "'source: packages' it must be null"
            )
        voices.prepare(params, out, job)
        return
    if params.root is None:
        raise UserError(
            f"params.yaml: 'sepprune.prepare.source' is '{params.source}', so "
            "'sepprune.prepare.root' must name the folder of that set"
        )
    _prepare_folder(params, params.root, out, job)


def _prepare_folder(params: Params, given: str, out: Path, job: Job) -> None:
    """List a published set and choose its fixed sets; the audio stays where it is.

    A fixed set is a random choice of crops of `seconds`, not whole utterances, since all mixtures
    of a set have one length here; of LRS2-2Mix, whose mixtures have 2 s, these are the same.
    """
    layout = LAYOUTS[params.source]
    root = job.root / given  # an absolute path stays as it is
    found, file_rate = published.find(root, layout, params.rate)
    reader = Reader(root, file_rate, params.rate, round(params.seconds * params.rate))
    long = {s: [i for i in items if i.frames >= reader.span] for s, items in found.items()}
    for split, items in long.items():
        if not items:
            raise UserError(
                f"no mixture of {layout.title}'s set '{split}' has {params.seconds:g} s; "
                "lower 'sepprune.prepare.seconds' in params.yaml"
            )
    tables = {"train": [_row(item) for item in long["train"]]}
    for split, count in (("valid", params.mixtures.valid), ("test", params.mixtures.test)):
        with job.progress(count, f"choosing {split} mixtures") as bar:
            chosen = []
            for item, offset in reader.fixed(
                long[split], count, params.active_db, params.active_share, split, params.seed
            ):
                chosen.append({**_row(item), "offset": offset})
                bar.advance()
        if not chosen:
            raise UserError(
                f"in no mixture of {layout.title}'s set '{split}' do both voices speak for "
                f"{params.active_share:.0%} of {params.seconds:g} s; lower "
                "'sepprune.prepare.active_share' in params.yaml"
            )
        tables[split] = sorted(chosen, key=lambda row: row["id"])
    for split, rows in tables.items():
        write_csv(out / f"{split}.csv", rows)
    digest = published.digest(found)
    counts = {
        split: {
            "mixtures": len(items),
            "too short": len(items) - len(long[split]),
            "hours": round(sum(i.frames for i in items) / file_rate / 3600, 3),
            "used": len(tables[split]),
        }
        for split, items in found.items()
    }
    write_json(
        out / MANIFEST,
        {
            "source": params.source,
            "dataset": layout.title,
            "root": given,
            "rate": params.rate,
            "file_rate": file_rate,
            "seconds": params.seconds,
            "splits": list(tables),
            "counts": counts,
            "licence": "that of its publisher; the files do not carry it",
            "sha256 of the listing": digest,
        },
    )
    write_csv(out / "sets.csv", [{"set": split, **row} for split, row in counts.items()])
    add_exhibit(
        out,
        kind="table",
        name="sets",
        file="sets.csv",
        title=f"{layout.title} as found",
        caption="Mixtures in each set, and how many are used after the choice of fixed sets.",
    )
    job.track.dataset(layout.title, digest, given)


def _row(item: Item) -> dict[str, Any]:
    mix, one, two = item.paths
    return {"id": item.id, "frames": item.frames, "mix": mix, "source_1": one, "source_2": two}
