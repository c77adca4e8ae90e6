from pathlib import Path

import numpy as np
import pytest
import soundfile

from stages.core.errors import UserError
from stages.prepare import published
from stages.prepare.audio import resample
from stages.prepare.published import LAYOUTS
from stages.prepare.reader import Reader
from tests.stages.prepare.trees import RATE, SETS, published_tree, speech, write


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_layout_is_found(tmp_path: Path, name: str) -> None:
    published_tree(tmp_path, name)
    found, rate = published.find(tmp_path, LAYOUTS[name], RATE)
    assert rate == RATE and list(found) == ["train", "valid", "test"]
    for split, items in found.items():
        assert len(items) == 4
        assert [i.id for i in items] == sorted(i.id for i in items)
        assert [i.frames for i in items] == [4000, 10400, 11200, 12000]
        for item in items:
            assert all((tmp_path / path).is_file() for path in item.paths)
            assert all(path.startswith(SETS[name][0][split]) for path in item.paths)
            assert [
                Path(p).name if name == "echoset" else Path(p).parent.name for p in item.paths
            ] == [*SETS[name][1]]
    assert published.digest(found) == published.digest(
        published.find(tmp_path, LAYOUTS[name], RATE)[0]
    )


def test_lrs2_below_its_audio_folder(tmp_path: Path) -> None:
    published_tree(tmp_path / "audio/wav16k/min", "lrs2mix", 16000)
    found, rate = published.find(tmp_path, LAYOUTS["lrs2mix"], 16000)
    assert rate == 16000 and found["test"][0].paths[0] == "audio/wav16k/min/tt/mix/00.wav"


def test_libri2mix_takes_the_variant_of_the_wanted_rate(tmp_path: Path) -> None:
    published_tree(tmp_path, "libri2mix")
    for path in sorted(tmp_path.rglob("*.wav")):
        other = tmp_path / path.relative_to(tmp_path).as_posix().replace("wav8k", "wav16k")
        write(other, speech(0, 1.5, 16000), 16000)
    for wanted in (8000, 16000):
        _, rate = published.find(tmp_path, LAYOUTS["libri2mix"], wanted)
        assert rate == wanted


def test_wrong_trees_are_named(tmp_path: Path) -> None:
    layout = LAYOUTS["lrs2mix"]
    with pytest.raises(
        UserError, match=r"no LRS2-2Mix: expected the folders cv, tr, tt.*no such f"
    ):
        published.find(tmp_path / "none", layout, RATE)
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong/readme.md").touch()
    with pytest.raises(UserError, match=r"in audio/wav16k/min; found readme\.md"):
        published.find(tmp_path / "wrong", layout, RATE)
    for part in ("tr/mix", "cv/mix", "tt/mix"):
        (tmp_path / "empty" / part).mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no mixture; expected mix/\*\.wav with s1/ and s2/"):
        published.find(tmp_path / "empty", layout, RATE)


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_bad_files_are_named(tmp_path: Path, name: str) -> None:
    published_tree(tmp_path, name)
    layout = LAYOUTS[name]
    found, _ = published.find(tmp_path, layout, RATE)
    victim = tmp_path / found["valid"][2].paths[2]
    short = victim.relative_to(tmp_path).as_posix()
    original = victim.read_bytes()

    def refused(words: str) -> None:
        with pytest.raises(UserError) as caught:
            published.find(tmp_path, layout, RATE)
        assert words in str(caught.value)
        victim.write_bytes(original)

    victim.unlink()
    refused(f"expected {short} to go with")
    write(victim, speech(0, 0.7))
    refused("differ in length: [11200, 11200, 5600]")
    victim.write_bytes(b"no audio")
    refused("cannot be read as audio")
    soundfile.write(victim, np.zeros((11200, 2), dtype=np.int16), RATE)
    refused("has 2 channels; expected one")


def test_one_rate_for_all(tmp_path: Path) -> None:
    published_tree(tmp_path, "lrs2mix")
    write(tmp_path / "tt/s1/03.wav", speech(0, 0.75, 16000), 16000)  # as many samples
    with pytest.raises(UserError, match=r"tt/s1/03\.wav has 16000 Hz"):
        published.find(tmp_path, LAYOUTS["lrs2mix"], RATE)


def test_crops_are_read_from_the_files(tmp_path: Path) -> None:
    published_tree(tmp_path, "echoset")
    found, rate = published.find(tmp_path, LAYOUTS["echoset"], RATE)
    reader = Reader(tmp_path, rate, RATE, RATE)
    item = found["train"][3]
    data = reader.crop(item.paths, 1234)
    whole = [
        soundfile.read(tmp_path / p, dtype="float32")[0][1234 : 1234 + RATE] for p in item.paths
    ]
    np.testing.assert_array_equal(data, np.stack(whole))
    np.testing.assert_allclose(data[0], data[1] + data[2], atol=1e-4)


def test_crops_at_another_rate(tmp_path: Path) -> None:
    published_tree(tmp_path, "lrs2mix", 16000)
    found, rate = published.find(tmp_path, LAYOUTS["lrs2mix"], RATE)
    assert rate == 16000
    reader = Reader(tmp_path, rate, RATE, RATE)
    assert reader.span == 16000
    item = found["test"][1]
    whole = soundfile.read(tmp_path / item.paths[0], dtype="float32")[0]
    np.testing.assert_array_equal(
        reader.crop(item.paths, 100)[0], resample(whole[100:16100], 16000, 8000)
    )


def test_batches_are_pure_and_mixtures_are_whole(tmp_path: Path) -> None:
    published_tree(tmp_path, "lrs2mix")
    found, rate = published.find(tmp_path, LAYOUTS["lrs2mix"], RATE)
    reader = Reader(tmp_path, rate, RATE, RATE)
    items = [item for item in found["train"] if item.frames >= reader.span]
    mix, sources = reader.batch(items, 1, 9, 5)
    assert mix.shape == (5, RATE) and sources.shape == (5, 2, RATE)
    np.testing.assert_allclose(mix, sources.sum(1), atol=1e-4)
    np.testing.assert_array_equal(mix, reader.batch(items, 1, 9, 5)[0])
    assert not np.array_equal(mix, reader.batch(items, 1, 10, 5)[0])


def test_fixed_sets_want_both_voices(tmp_path: Path) -> None:
    published_tree(tmp_path, "lrs2mix")
    silent = tmp_path / "tt/s2/02.wav"
    write(silent, np.zeros(11200, dtype=np.int16))
    late = np.zeros(12000, dtype=np.int16)
    late[9000:] = speech(0, 3000 / RATE)
    write(tmp_path / "tt/s1/03.wav", late)
    found, rate = published.find(tmp_path, LAYOUTS["lrs2mix"], RATE)
    reader = Reader(tmp_path, rate, RATE, RATE)
    items = found["test"][1:]
    chosen = {i.id: offset for i, offset in reader.fixed(items, 10, 30, 0.3, "test", 0)}
    assert chosen.keys() == {"01", "03"}
    assert 3000 <= chosen["03"] <= 4000
    assert [i.id for i, _ in reader.fixed(items, 1, 30, 0.0, "test", 0)] != []


def test_a_set_that_has_changed_is_named(tmp_path: Path) -> None:
    published_tree(tmp_path, "lrs2mix")
    found, rate = published.find(tmp_path, LAYOUTS["lrs2mix"], RATE)
    reader = Reader(tmp_path, rate, RATE, RATE)
    item = found["train"][2]
    write(tmp_path / item.paths[1], speech(0, 0.2))
    with pytest.raises(UserError, match="shorter than when `prepare` listed it"):
        reader.crop(item.paths, 0)
    (tmp_path / item.paths[1]).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        reader.crop(item.paths, 0)
