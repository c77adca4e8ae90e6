import inspect
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError

from pipelines.sepprune import prepare
from pipelines.sepprune.data import Speech
from stages.core.errors import UserError
from stages.core.files import listing
from stages.core.job import Inputs
from stages.prepare import debs
from tests.jobs import for_tests
from tests.pipelines.sepprune.prepared import NODE, VALUES, make, table
from tests.stages.prepare.trees import RATE, VOICES, published_tree, speech, voice_project, write

ROOT = Path(__file__).parents[3]
SPLITS = ("train", "valid", "seen", "unseen")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    voice_project(root)
    return root


@pytest.fixture(scope="module")
def made(project: Path) -> Path:
    return make(project)


def test_two_runs_give_the_same_bytes(
    project: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    voice_project(elsewhere)
    real = os.scandir

    class Backwards:
        """A file system that lists folders the other way round."""

        def __init__(self, path: Any = ".") -> None:
            with real(path) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=True)

        def __iter__(self) -> Any:
            return iter(self.entries)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    monkeypatch.setattr(os, "listdir", lambda p=".": [e.name for e in Backwards(p)])
    other = make(elsewhere)
    monkeypatch.undo()
    one = {p.relative_to(made).as_posix(): p.read_bytes() for p in listing(made)}
    two = {p.relative_to(other).as_posix(): p.read_bytes() for p in listing(other)}
    assert one == two
    assert {"speech.npy", "manifest.json", "seen.csv", "exhibits.json"} <= one.keys()
    assert not any(str(project).encode() in data for data in one.values())


def test_a_file_name_is_in_one_set_whoever_speaks(made: Path) -> None:
    rows = table(made / "files.csv")
    names: dict[str, set[str]] = {}
    for row in rows:
        names.setdefault(row["file"].rsplit("/", 1)[-1], set()).add(row["split"])
    for sets in names.values():
        assert len(sets - {"seen", "unseen"}) + bool(sets & {"seen", "unseen"}) == 1
    voices = {split: {r["voice"] for r in rows if r["split"] == split} for split in SPLITS}
    assert voices["unseen"] == {"anna", "dora"}
    assert voices["train"] == voices["seen"] == {"bert", "carla", "emil"}
    assert not {"tt-noise", "short"} & names.keys()


def test_manifest_names_file_offset_and_gain(project: Path, made: Path) -> None:
    """A fixed mixture can be remade from the packages' own files by its manifest alone."""
    speech_set = Speech.load(made)
    places = debs.fetch_all(project)
    for split in ("valid", "seen", "unseen"):
        ids, mix, sources = speech_set.fixed(split)
        rows = table(made / f"{split}.csv")
        assert ids == [row["id"] for row in rows]
        assert torch.equal(mix, sources.sum(1))
        for row, pair in zip(rows, sources.numpy(), strict=True):
            assert row["voice_1"] != row["voice_2"]
            for k in (1, 2):
                folder = places[f"voice-{row[f'voice_{k}']}"] / "sounds"
                whole, _ = soundfile.read(folder / f"{row[f'file_{k}']}.wav", dtype="float32")
                start = int(row[f"offset_{k}"])
                raw = whole[start : start + RATE]
                gain = 10 ** (float(row[f"gain_{k}_db"]) / 20)
                np.testing.assert_allclose(pair[k - 1], raw * gain, rtol=1e-5, atol=1e-7)
    assert len(table(made / "seen.csv")) == 9 and len(table(made / "unseen.csv")) == 5


def test_gains_are_symmetric_about_one_level(made: Path) -> None:
    levels = {(r["voice"], r["file"]): float(r["level_db"]) for r in table(made / "files.csv")}
    for row in table(made / "seen.csv"):
        one, two = (
            float(row[f"gain_{k}_db"]) + levels[row[f"voice_{k}"], row[f"file_{k}"]] + 25.0
            for k in (1, 2)
        )
        assert one == pytest.approx(-two, abs=2e-4) and abs(one) <= 2.5


def test_batches(made: Path) -> None:
    one, other = Speech.load(made), Speech.load(made)
    assert (one.rate, one.splits, one.dataset) == (8000, SPLITS, "telephone prompts")
    mix, sources = one.batch(3, 11, 4)
    assert mix.shape == (4, 8000) and sources.shape == (4, 2, 8000)
    assert mix.dtype == sources.dtype == torch.float32
    assert torch.equal(mix, sources.sum(1)) and sources.abs().max() < 1
    other.batch(3, 10, 4)
    assert torch.equal(other.batch(3, 11, 4)[0], mix)
    assert not torch.equal(one.batch(3, 12, 4)[0], mix)


def test_batches_hold_training_speech_alone(made: Path) -> None:
    speech_set = Speech.load(made)
    speech_set.batch(0, 0, 1)
    mixer = speech_set._mixer
    rows = table(made / "files.csv")
    assert len(mixer.voices) == 3
    for places, gains in zip(mixer.voices, mixer.gains_db, strict=True):
        for place, gain in zip(places.tolist(), gains.tolist(), strict=True):
            (row,) = (r for r in rows if 0 <= place - int(r["start"]) <= int(r["frames"]) - RATE)
            assert row["split"] == "train"
            assert gain == pytest.approx(-25 - float(row["level_db"]), abs=1e-3)


def test_crops_are_mostly_speech(made: Path) -> None:
    _, _, sources = Speech.load(made).fixed("seen")
    frames = sources.reshape(-1, 50, 160).square().mean(-1)
    loud = frames >= frames.amax(1, keepdim=True) / 1000
    assert loud.float().mean(1).min() >= 0.6


def test_credit_only_where_licences_agree(made: Path) -> None:
    speech_set = Speech.load(made)
    for split in ("seen", "unseen"):
        for index, row in enumerate(table(made / f"{split}.csv")):
            credit = speech_set.credit(split, index)
            if "bert" in (row["voice_1"], row["voice_2"]):  # GPL beside CC-BY
                assert credit == "" and row["licence"] == ""
            else:
                assert all(f"spoken by {row[v].title()}" in credit for v in ("voice_1", "voice_2"))
                assert credit.endswith("under CC-BY-3.0.")


def test_manifest_counts_and_exhibit(made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    rows = table(made / "files.csv")
    for split in SPLITS:
        own = [r for r in rows if r["split"] == split]
        minutes = sum(int(r["frames"]) for r in own) / RATE / 60
        assert manifest["counts"][split]["files"] == len(own)
        assert manifest["counts"][split]["minutes"] == round(minutes, 2)
    assert {v for v, e in manifest["voices"].items() if e["held_out"]} == {"anna", "dora"}
    (exhibit,) = json.loads((made / "exhibits.json").read_text())
    assert exhibit["kind"] == "table" and len(table(made / exhibit["file"])) == len(VOICES)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rate": 16000}, "'sepprune.prepare.rate' is 16000"),
        ({"root": "data"}, "'sepprune.prepare.root' is for published sets"),
        ({"source": "lrs2mix"}, "'sepprune.prepare.root' must name the folder"),
        ({"held_out": ["anna", "zoe"]}, "names zoe; data.lock has the voices anna, bert"),
        ({"held_out": ["anna"]}, "at least two voices"),
        ({"held_out": ["anna", "bert", "carla", "dora"]}, "at least two voices"),
        ({"seconds": 30.0}, "no recording has 30.0 s"),
        ({"active_share": 1.0, "active_db": 0.1}, "a mixture takes two"),
    ],
)
def test_parameters_that_do_not_fit(
    project: Path, tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    with for_tests(project, NODE) as job, pytest.raises(UserError) as caught:
        params = prepare.Params.model_validate(VALUES | change)
        prepare.run(params, Inputs(project, NODE), tmp_path, job)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"source": "wsj0"},
        {"colour": "red"},
        {"seconds": 0.0},
        {"shares": {"train": 0.7, "valid": 0.2, "test": 0.2}},
        {"mixtures": {"valid": 0, "test": 1, "unseen": 1}},
    ],
)
def test_parameters_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        prepare.Params.model_validate(VALUES | change)


def test_no_data_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.lock").write_bytes((ROOT / "data.lock").read_bytes())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError) as caught:
        make(tmp_path, held_out=["armelle", "menardi"])
    for word in ("asterisk-core-sounds-en-wav", "Debian", "`root:`"):
        assert word in str(caught.value)


def test_load_refuses_other_folders(tmp_path: Path, made: Path) -> None:
    with pytest.raises(UserError, match="no prepared speech"):
        Speech.load(tmp_path)
    with pytest.raises(UserError, match="no fixed set 'train'; it has valid, seen, unseen"):
        Speech.load(made).fixed("train")


@pytest.mark.parametrize("source", ["lrs2mix", "libri2mix", "echoset"])
def test_published_set(tmp_path: Path, source: str) -> None:
    published_tree(tmp_path / "sets/here", source)
    change = {"source": source, "root": "sets/here", "active_share": 0.5}
    out = make(tmp_path, **change)
    speech_set = Speech.load(out)
    assert speech_set.splits == ("train", "valid", "test")
    assert (
        speech_set.dataset
        == {
            "lrs2mix": "LRS2-2Mix",
            "libri2mix": "Libri2Mix",
            "echoset": "EchoSet",
        }[source]
    )
    mix, sources = speech_set.batch(0, 5, 3)
    assert mix.shape == (3, 8000) and sources.shape == (3, 2, 8000)
    assert torch.equal(speech_set.batch(0, 5, 3)[1], sources)
    ids, mix, sources = speech_set.fixed("test")
    assert len(ids) == len(set(ids)) == 3 == len(mix)  # the fourth is too short
    assert torch.allclose(mix, sources.sum(1), atol=1e-4)
    assert json.loads((out / "manifest.json").read_text())["counts"]["test"]["too short"] == 1
    assert speech_set.credit("test", 0) == ""
    again = make(tmp_path, "again", **change)
    for path in listing(out):
        assert path.read_bytes() == (again / path.relative_to(out)).read_bytes()
    assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in listing(out))


def test_published_set_problems(tmp_path: Path) -> None:
    root = tmp_path / "set"
    change: dict[str, Any] = {"source": "lrs2mix", "root": str(root)}
    with pytest.raises(UserError, match="no such folder"):
        make(tmp_path, "a", **change)
    published_tree(root, "lrs2mix")
    with pytest.raises(UserError, match=r"no mixture of LRS2-2Mix's set 'train' has 9 s"):
        make(tmp_path, "b", **change, seconds=9.0)
    for path in (root / "tt/s2").iterdir():
        write(path, np.zeros(soundfile.info(path).frames, dtype=np.int16))
    with pytest.raises(UserError, match="in no mixture of LRS2-2Mix's set 'test'"):
        make(tmp_path, "c", **change)
    for path in (root / "tt/s2").iterdir():
        write(path, speech(0, soundfile.info(path).frames / RATE))
    out = make(tmp_path, "d", **change)
    root.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="the published set is gone"):
        Speech.load(out)


def test_prepare_does_not_import_torch() -> None:
    """It would cost seconds, and the first line of the stage's own work waits for it."""
    source = "".join(inspect.getsource(m) for m in (prepare, prepare.voices))
    assert "import torch" not in source
