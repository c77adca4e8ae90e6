import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.prepare import mixtures
from stages.prepare.mixtures import Mixer
from tests.stages.prepare.trees import RATE, speech

SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(30, 200))
def test_split_by_name_meets_its_shares(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    seconds = {f"n{k}": float(rng.uniform(1, 5)) for k in range(count)}
    dealt = mixtures.split_names(seconds, [], SHARES, seed)
    assert dealt.keys() == seconds.keys()
    total = sum(seconds.values())
    for name, share in SHARES.items():
        part = sum(seconds[n] for n, where in dealt.items() if where == name)
        assert abs(part / total - share) <= 2 * 5 / total + 1e-9


def test_split_depends_on_the_names_not_on_their_order() -> None:
    seconds = {f"n{k}": 1.0 + k % 3 for k in range(50)}
    turned = dict(reversed(seconds.items()))
    same = [("n1", "n2"), ("n2", "n3"), ("n9", "gone")]
    one = mixtures.split_names(seconds, same, SHARES, 3)
    assert one == mixtures.split_names(turned, same[::-1], SHARES, 3)
    assert one != mixtures.split_names(seconds, same, SHARES, 4)


@given(st.integers(0, 10**6))
def test_names_that_say_the_same_stay_together(seed: int) -> None:
    seconds = dict.fromkeys((f"n{k}" for k in range(20)), 1.0)
    chain = [("n5", "n1"), ("n17", "n5"), ("n3", "n17")]
    dealt = mixtures.split_names(seconds, chain, SHARES, seed)
    assert len({dealt[n] for n in ("n1", "n3", "n5", "n17")}) == 1


def test_starts_want_speech() -> None:
    loud, quiet = speech(0, 1.0), np.zeros(RATE, dtype=np.int16)
    samples = np.concatenate([loud, quiet, loud])
    found = mixtures.starts(samples, RATE, RATE, 60, 0.5)
    assert found[0] == 0 and found[-1] == 2 * RATE
    assert not ((found > 0.55 * RATE) & (found < 1.45 * RATE)).any()
    assert (found % 160 == 0).all()
    every = mixtures.starts(samples, RATE, RATE, 60, 0.0)
    assert len(every) == 2 * 50 + 1
    assert len(mixtures.starts(loud[:-1], RATE, RATE, 60, 0.5)) == 0


def test_starts_of_a_crop_that_is_no_whole_number_of_frames() -> None:
    samples = speech(0, 1.0)[:7999]
    assert mixtures.starts(samples, RATE, 7999, 60, 0.5).tolist() == [0]


def test_apart() -> None:
    offsets = np.array([0, 160, 8000, 8160, 15999, 16000, 30000])
    assert mixtures.apart(offsets, 8000).tolist() == [0, 8000, 16000, 30000]


def test_fixed_set_is_balanced_and_repeats_late() -> None:
    crops = {"a": 40, "b": 40, "c": 12}
    picks = mixtures.fixed_set(crops, 30, 5.0, "seen", 0)
    assert picks == mixtures.fixed_set(crops, 30, 5.0, "seen", 0)
    assert picks != mixtures.fixed_set(crops, 30, 5.0, "seen", 1)
    pairs = [pick.voices for pick in picks]
    assert all(pairs.count(pair) == 10 for pair in combinations("abc", 2))
    used = [(v, c) for pick in picks for v, c in zip(pick.voices, pick.crops, strict=True)]
    for voice, limit in crops.items():
        numbers = [c for v, c in used if v == voice]
        assert len(set(numbers)) == min(limit, 20)
    gains = [pick.gain_db for pick in picks]
    assert -5 <= min(gains) < -2 and 2 < max(gains) <= 5


def _mixer(length: int = RATE) -> Mixer:
    samples = np.concatenate([speech(k, 4.0, pitch=100 + 40 * k) for k in range(3)])
    places = [np.arange(k * 4 * RATE, (k * 4 + 3) * RATE, 160, dtype=np.int32) for k in range(3)]
    gains = [np.full(len(p), 3.0 * k, dtype=np.float32) for k, p in enumerate(places)]
    return Mixer(samples, places, gains, length, 5.0)


def test_batch_is_a_pure_function_of_seed_and_step() -> None:
    one, other = _mixer(), _mixer()
    other.batch(1, 5, 3)
    for a, b in zip(one.batch(1, 7, 4), other.batch(1, 7, 4), strict=True):
        np.testing.assert_array_equal(a, b)
    first = one.batch(1, 7, 4)[0]
    for seed, step in ((2, 7), (1, 8), (7, 1)):
        assert not np.array_equal(first, one.batch(seed, step, 4)[0])


def test_batch_is_the_recipe() -> None:
    mixer = _mixer()
    mix, sources = mixer.batch(0, 0, 64)
    assert mix.shape == (64, RATE) and sources.shape == (64, 2, RATE)
    assert mix.dtype == sources.dtype == np.float32
    np.testing.assert_array_equal(mix, sources[:, 0] + sources[:, 1])
    differences = []
    for pair in sources:
        owners, gains = [], []
        for source in pair:
            # Which place and gain give this source? Search by correlation with every voice.
            scores = []
            for voice, places in enumerate(mixer.voices):
                for place in places:
                    raw = mixer.samples[place : place + RATE].astype(np.float64)
                    factor = (raw @ source) / (raw @ raw)
                    scores.append((float(np.abs(source - factor * raw).max()), voice, factor))
                    if scores[-1][0] < 1e-6:
                        break
            error, voice, factor = min(scores)
            assert error < 1e-6
            owners.append(voice)
            gains.append(20 * np.log10(factor * 32768) - 3.0 * voice)
        assert owners[0] != owners[1]
        assert gains[0] == pytest.approx(-gains[1], abs=1e-3)
        differences.append(gains[0] - gains[1])
    assert -5 <= min(differences) < -3 and 3 < max(differences) <= 5


def test_batch_is_fast() -> None:
    mixer = _mixer()
    times = []
    for step in range(200):
        start = time.perf_counter()
        mixer.batch(0, step, 4)
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3
