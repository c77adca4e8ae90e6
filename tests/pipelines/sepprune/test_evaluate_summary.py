"""What is made of the scores: shares, updates to match, clips, spectrograms."""

import logging

import numpy as np
import pandas
import pytest
import torch

from pipelines.sepprune import evaluate, examples, losses, pictures, summary
from stages.evaluate import separation
from tests.pipelines.sepprune.evaluated import RATE, Voices, a_table, part


def test_updates_to_match_and_their_censoring():
    searched = {("sepprune", "sudormrf", 0): 30, ("sepprune", "sudormrf", 1): 30,
                ("scratch", "sudormrf", 0): 30, ("scratch", "sudormrf", 1): 30,
                ("dense", "sudormrf", 0): 0}  # fmt: skip
    made = pandas.concat(summary.convergence(a_table(), "seen", searched, 10))
    found = {
        (row["variant"], row["seed"], row["metric"]): (row["value"], row["censored"])
        for row in made.to_dict("records")
    }
    bare, whole = "updates_to_match", "updates_to_match_with_search"
    assert found["sepprune", 0, bare] == (10, False)
    assert found["sepprune", 0, whole] == (40, False)
    assert found["scratch", 0, bare] == (pytest.approx(35), False)  # 6 dB: 5/6 from 10 to 40
    assert found["scratch", 0, whole] == (pytest.approx(65), False)
    assert found["scratch", 1, bare] == (40, True)  # never 9 dB
    assert not any(variant == "dense" for variant, _, _ in found)


def test_the_share_is_of_the_teacher_and_needs_one_that_gains():
    log = logging.getLogger("retort")
    made = pandas.concat(summary.recovery(a_table(), log))
    share = part(made, metric="recovery_share", variant="sepprune", condition="one_epoch")
    assert share.set_index("seed")["value"].to_dict() == {0: 60.0, 1: 90.0}
    poor = a_table()
    poor.loc[poor["variant"] == "dense", "value"] = -0.1
    made = pandas.concat(summary.recovery(poor, log))
    assert set(made["metric"]) == {"gap_db"}


def test_the_summary_averages_seeds_and_leaves_censored_counts_out():
    searched = {(v, "sudormrf", s): 0 for v in ("sepprune", "scratch") for s in (0, 1)}
    table = pandas.concat([a_table(), *summary.convergence(a_table(), "seen", searched, 10)])
    found = summary.metrics(table, "seen")["sudormrf"]
    assert found["dense"]["si_sdri"] == 10
    assert found["sepprune"]["si_sdri"] == {"one_epoch": 7.5, "final": 8.75}
    assert found["sepprune"]["updates_to_match"] == 10
    assert "updates_to_match" not in found["scratch"]


def test_clips_stand_in_the_order_of_the_voices():
    class Swaps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, mix):
            return sources.flip(0)[None]

    _, mixes, all_sources = Voices().fixed("seen")
    sources = all_sources[2]
    clips = examples.clips_of(mixes[2], sources, {"dense": Swaps()})
    assert [(c.voice, c.source) for c in clips] == [
        (0, "mixture"), (1, "reference"), (1, "dense"), (2, "reference"), (2, "dense"),
    ]  # fmt: skip
    assert torch.equal(clips[2].signal, sources[0])
    assert "SI-SDRi" in clips[2].note


def test_a_spectrogram_shows_a_tone_where_it_is():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    image = pictures.spectrogram(tone, 128, 80, 60.0)
    assert image.shape == (65, 101)
    assert image[:, 50].argmax() == 16  # 1000 Hz of 4000 over 64 bins
    assert image.max() == 0 and image.min() == -60
    assert (pictures.spectrogram(np.zeros(RATE), 128, 80, 60.0) == -60).all()


def test_ticks_do_not_crowd():
    def ticks(**updates):
        return pictures.ticks({k: pandas.DataFrame({"updates": v}) for k, v in updates.items()})

    assert ticks(sepprune=[0]) == [0]
    assert ticks(sepprune=[0, 50, 60, 100, 200]) == [0, 50, 100, 200]
    assert ticks(sepprune=[0, 50, 100], taylor=[92], scratch=[0, 200, 390, 400]) == [
        0, 50, 100, 200, 400,
    ]  # fmt: skip


def test_a_published_set_is_known_by_its_name():
    class Published(Voices):
        dataset, splits = "LRS2-2Mix", ("train", "valid", "test")

        def fixed(self, split):
            return super().fixed("seen")

    assert evaluate.TestSet(Published(), "test").dataset == "LRS2-2Mix"
    assert evaluate.TestSet(Voices(), "unseen").dataset == "unseen"


def test_training_and_evaluation_agree_on_si_sdr():
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(4, 2, 2000, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, 2, 2000, generator=generator, dtype=torch.float64)
    estimates = (sources + 0.4 * noise).flip(1)
    theirs, their_order = losses.pit(losses.si_sdr, estimates, sources)
    ours, our_order = separation.best(separation.si_sdr_pairs(estimates, sources))
    torch.testing.assert_close(ours.mean(-1), theirs, atol=1e-6, rtol=0)
    assert torch.equal(our_order, their_order)
