"""Folders of published two-speaker sets: what they look like, and what is in them.

Layouts, where `*` is any name:

* LRS2-2Mix: {tr,cv,tt}/{mix,s1,s2}/*.wav [code: TDANet, DataPreProcess/process_lrs2.py]; the three
  folders may also lie in audio/wav16k/min, as in the authors' other sets [inferred].
* Libri2Mix: wav{8,16}k/min/{train-100,dev,test}/{mix_clean,s1,s2}/*.wav [code: LibriMix and TDANet,
  DataPreProcess/process_librimix.py].
* EchoSet: {train,val,test}/*/*/*/{mix,spk1_reverb,spk2_reverb}.wav [code: SepPrune,
  DataPreProcess/process_echoset.py, which walks any depth]; the targets are the reverberant voices,
  and the mixture has noise too, so it is more than their sum.

That all files are mono and of one sampling rate is [inferred], and checked here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from stages.core.errors import UserError


@dataclass(frozen=True)
class Layout:
    """How a published set lies on disk.

    Attributes:
        title: its name in tables.
        bases: folders below `root:` where it may begin; "{k}" stands for the rate in kHz.
        splits: our name of a set -> its folder.
        files: mixture, first and second source: folders of equal file names, or (`nested`) files
            of equal name in a folder per mixture.
    """

    title: str
    bases: tuple[str, ...]
    splits: dict[str, str]
    files: tuple[str, str, str]
    nested: bool = False


LAYOUTS = {
    "lrs2mix": Layout(
        "LRS2-2Mix",
        (".", "audio/wav16k/min"),
        {"train": "tr", "valid": "cv", "test": "tt"},
        ("mix", "s1", "s2"),
    ),
    "libri2mix": Layout(
        "Libri2Mix",
        ("wav{k}k/min", "wav16k/min", "wav8k/min", "."),
        {"train": "train-100", "valid": "dev", "test": "test"},
        ("mix_clean", "s1", "s2"),
    ),
    "echoset": Layout(
        "EchoSet",
        (".",),
        {"train": "train", "valid": "val", "test": "test"},
        ("mix.wav", "spk1_reverb.wav", "spk2_reverb.wav"),
        nested=True,
    ),
}


@dataclass(frozen=True)
class Item:
    """One mixture on disk.

    Attributes:
        id: unique within its set.
        paths: mixture and both sources, from `root:`.
        frames: length in samples.
    """

    id: str
    paths: tuple[str, str, str]
    frames: int


def find(root: Path, layout: Layout, rate: int) -> tuple[dict[str, list[Item]], int]:
    """List the mixtures of all sets, sorted; headers alone are read.

    Args:
        root: the folder given by the user.
        layout: which set is expected there.
        rate: wanted sampling rate, which chooses between the variants of Libri2Mix.

    Returns:
        Set -> mixtures; and the files' sampling rate.

    Raises:
        UserError: the folder does not have that layout; the message says what was expected and
            what is there.
    """
    bases = [base.format(k=rate // 1000) for base in layout.bases]
    wanted = sorted(layout.splits.values())
    base = next((b for b in bases if all((root / b / s).is_dir() for s in wanted)), None)
    if base is None:
        there = sorted(p.name for p in root.iterdir())[:12] if root.is_dir() else None
        raise UserError(
            f"'{root}' is no {layout.title}: expected the folders {', '.join(wanted)} in it"
            + (f" or in {', '.join(dict.fromkeys(bases[1:]))}" if len(bases) > 1 else "")
            + "; found "
            + ("no such folder" if there is None else ", ".join(there) or "an empty folder")
        )
    found: dict[str, list[Item]] = {}
    rates: dict[int, str] = {}
    for name, folder in layout.splits.items():
        mixtures = _mixtures(root / base / folder, layout)
        found[name] = [_item(root, root / base / folder, m, layout, rates) for m in mixtures]
        if not found[name]:
            raise UserError(f"'{root / base / folder}' holds no mixture; expected {_form(layout)}")
    if len(rates) > 1:
        told = ", ".join(f"{path} has {found_rate} Hz" for found_rate, path in rates.items())
        raise UserError(f"'{root}' mixes sampling rates: {told}")
    return found, next(iter(rates))


def _form(layout: Layout) -> str:
    one, two, three = layout.files
    return f"*/{one}" if layout.nested else f"{one}/*.wav with {two}/ and {three}/ beside it"


def _mixtures(folder: Path, layout: Layout) -> list[Path]:
    if layout.nested:
        return sorted(folder.rglob(layout.files[0]))
    return sorted((folder / layout.files[0]).glob("*.wav"))


def _item(root: Path, folder: Path, mixture: Path, layout: Layout, rates: dict[int, str]) -> Item:
    import soundfile

    if layout.nested:
        paths = [mixture.parent / name for name in layout.files]
        name = mixture.parent.relative_to(folder).as_posix()
    else:
        paths = [folder / part / mixture.name for part in layout.files]
        name = mixture.stem
    lengths = []
    for path in paths:
        relative = path.relative_to(root).as_posix()
        if not path.is_file():
            raise UserError(f"'{root}': expected {relative} to go with {mixture.name}; not there")
        try:
            info = soundfile.info(path)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path} cannot be read as audio: {error}") from None
        if info.channels != 1:
            raise UserError(f"{path} has {info.channels} channels; expected one")
        rates.setdefault(info.samplerate, relative)
        lengths.append(info.frames)
    if len(set(lengths)) > 1:
        raise UserError(f"{paths[0]} and its sources differ in length: {lengths} samples")
    one, two, three = (path.relative_to(root).as_posix() for path in paths)
    return Item(name, (one, two, three), lengths[0])


def digest(found: dict[str, list[Item]]) -> str:
    """SHA-256 of the listing: names and lengths. Contents are not read: a set has tens of GB."""
    lines = (f"{s}\t{i.id}\t{i.frames}\n" for s, items in found.items() for i in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
