"""Clips for the report."""

import wave

import numpy as np
import pytest

from stages.evaluate.audio import LEVEL, PEAK, levelled, write_wav


def tone(seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * 440 * np.arange(int(8000 * seconds)) / 8000)


def test_every_clip_is_equally_loud():
    for gain in (1e-4, 1.0, 50.0):
        loudness = np.sqrt(np.mean(levelled(gain * tone()) ** 2))
        assert loudness == pytest.approx(LEVEL)


def test_a_peak_never_clips():
    spike = np.zeros(8000)
    spike[10] = 3.0
    assert np.abs(levelled(spike)).max() == pytest.approx(PEAK)


def test_silence_stays_silence():
    assert not levelled(np.zeros(100)).any()


def test_what_is_no_clip_is_refused():
    for bad in (np.zeros((2, 100)), np.array([1.0, np.nan])):
        with pytest.raises(ValueError):
            levelled(bad)


def test_a_second_is_small_and_has_the_same_bytes_each_time(tmp_path):
    write_wav(tmp_path / "a.wav", tone(), 8000)
    write_wav(tmp_path / "b.wav", tone(), 8000)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert (tmp_path / "a.wav").stat().st_size < 17_000
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        samples = np.frombuffer(file.readframes(-1), "<i2") / 32767
    np.testing.assert_allclose(samples, levelled(tone()), atol=2e-5)
