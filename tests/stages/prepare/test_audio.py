from pathlib import Path

import numpy as np
import pytest
import soundfile

from stages.core.errors import UserError
from stages.prepare import audio
from tests.stages.prepare.trees import RATE, speech, write


def test_trim_cuts_silence_at_both_ends_alone() -> None:
    tone = np.full(800, 1000, dtype=np.int16)
    quiet = np.full(480, 5, dtype=np.int16)  # 46 dB below
    whole = np.concatenate([quiet, tone, quiet, tone, quiet])
    assert audio.trim(whole, RATE, 40) == (480, 480 + 800 + 480 + 800)
    assert audio.trim(whole, RATE, 60) == (0, len(whole))


def test_digital_silence_has_nothing() -> None:
    nothing = np.zeros(RATE, dtype=np.int16)
    assert audio.trim(nothing, RATE, 40) == (0, 0)
    assert audio.trim(nothing[:10], RATE, 40) == (0, 0)
    with pytest.raises(ValueError, match="silence"):
        audio.level_db(nothing, RATE, 40)


def test_level_is_that_of_the_speech_not_of_the_pauses() -> None:
    tone = np.full(1600, 16384, dtype=np.int16)
    assert audio.level_db(tone, RATE, 30) == pytest.approx(-6.0206, abs=1e-4)
    padded = np.concatenate([tone, np.zeros(RATE, dtype=np.int16)])
    assert audio.level_db(padded, RATE, 30) == audio.level_db(tone, RATE, 30)


def test_energies_do_not_overflow() -> None:
    loud = np.full(160, -32768, dtype=np.int16)
    assert audio.energies(loud, RATE).tolist() == [160 * 2**30]


def test_clips_leave_out_what_is_no_speech(tmp_path: Path) -> None:
    samples = speech(0, 1.0)
    write(tmp_path / "b.wav", samples)
    write(tmp_path / "digits/a.wav", speech(1, 0.5))
    write(tmp_path / "digits/copy.wav", samples)
    write(tmp_path / "silence/1.wav", samples)
    write(tmp_path / "beep.wav", speech(2, 0.5))
    write(tmp_path / "empty.wav", samples[:0])
    (tmp_path / "link.wav").symlink_to("b.wav")
    (tmp_path / "notes.txt").write_text("x")
    found = list(audio.clips(tmp_path, RATE, 40, ["beep"]))
    assert [clip.file for clip in found] == ["b", "digits/a", "digits/copy"]
    assert [clip.name for clip in found] == ["b", "a", "copy"]
    kept, same = audio.distinct(found)
    assert [clip.file for clip in kept] == ["b", "digits/a"]
    assert same == [("b", "copy")]


def test_skipped_counts_from_the_start_of_the_file(tmp_path: Path) -> None:
    samples = speech(3, 1.0)
    write(tmp_path / "x.wav", np.concatenate([np.zeros(800, dtype=np.int16), samples]))
    (clip,) = audio.clips(tmp_path, RATE, 40, [])
    whole = audio.read(tmp_path / "x.wav", RATE)
    assert clip.skipped >= 800
    piece = whole[clip.skipped : clip.skipped + len(clip.samples)]
    np.testing.assert_array_equal(clip.samples, piece)


def test_raw_gsm(tmp_path: Path) -> None:
    samples = speech(4, 1.0)
    path = tmp_path / "a.gsm"
    soundfile.write(path, samples, RATE, format="RAW", subtype="GSM610")
    heard = audio.read(path, RATE)
    assert abs(len(heard) - len(samples)) <= 320
    length = min(len(heard), len(samples))
    assert np.corrcoef(heard[:length], samples[:length])[0, 1] > 0.9


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path / "fast.wav", speech(5, 0.5, 16000), 16000)
    with pytest.raises(UserError, match=r"fast\.wav has 16000 Hz; expected 8000"):
        audio.read(tmp_path / "fast.wav", RATE)
    soundfile.write(tmp_path / "two.wav", np.zeros((100, 2), dtype=np.int16), RATE)
    with pytest.raises(UserError, match=r"two\.wav has 2 channels"):
        audio.read(tmp_path / "two.wav", RATE)
    (tmp_path / "bad.wav").write_text("no audio")
    with pytest.raises(UserError, match=r"bad\.wav cannot be read"):
        audio.read(tmp_path / "bad.wav", RATE)
    with pytest.raises(UserError, match="found none"):
        list(audio.clips(tmp_path / "nowhere", RATE, 40, []))


def test_resampling_keeps_tones_and_sums() -> None:
    time = np.arange(16000) / 16000
    one = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    two = np.sin(2 * np.pi * 1250 * time).astype(np.float32)
    three = np.stack([one + two, one, two])
    low = audio.resample(three, 16000, 8000)
    assert low.shape == (3, 8000)
    np.testing.assert_allclose(low[0], low[1] + low[2], atol=1e-5)
    wanted = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    np.testing.assert_allclose(low[1][200:-200], wanted[200:-200], atol=2e-3)
    assert audio.resample(three, 8000, 8000) is three
    high = np.sin(2 * np.pi * 6000 * time).astype(np.float32)  # above the new Nyquist frequency
    assert np.abs(audio.resample(high, 16000, 8000)[200:-200]).max() < 0.01
