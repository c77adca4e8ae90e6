"""From answers to scores: closed forms of the floors, of agreement, and of the spread."""

from dataclasses import replace
from pathlib import Path
from statistics import mean

import pandas
import pytest
import torch

from pipelines.foundations.video.data import normal
from pipelines.foundations.video.measure_arms import BITS, Answers, ask
from pipelines.foundations.video.measure_held import Held
from pipelines.foundations.video.measure_plan import Unit
from pipelines.foundations.video.measure_rows import METRICS, Table, Told, contributions, gaps
from stages.core.results import check_scores
from stages.evaluate.frechet import frechet
from tests.pipelines.foundations.video import measured
from tests.pipelines.foundations.video.measured import Jury

UNIT = Unit("a", "W4A6", 1, Path())


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    return measured.held(tmp_path_factory.mktemp("held"))


def table(held: Held) -> Table:
    return Table(held, Jury(), "paper", "net", "bars")  # type: ignore[arg-type]


def answered(held: Held, bits: str, clips: int = measured.COUNT) -> Answers:
    model = measured.student(held.asked.taught.denoiser, bits)
    return ask(model, held, 3, clips, measured.layers(model))


def values(found: pandas.DataFrame, **where: str) -> list[float]:
    for column, value in where.items():
        found = found[found[column] == value]
    return found["value"].tolist()


def test_real_clips_agree_with_their_captions(held: Held) -> None:
    found = table(held).references()
    check_scores(found, "references")
    for metric in ("agreement", "agreement_place", "agreement_shade"):
        assert values(found, variant="real", metric=metric) == [1.0] * measured.COUNT
    assert set(found["variant"]) == {"full", "full_again", "real"}
    assert set(found["condition"]) == {""}
    assert values(found, variant="full", metric="bits_per_value") == [32.0]


def test_the_floors_are_distances_of_what_is_not_quantized(held: Held) -> None:
    found, jury = table(held).references(), Jury()
    full, again, real, other = (
        jury.vectors(normal(x)) for x in (held.clips, held.again, held.real, held.other)
    )
    expected = {
        ("real", "frechet_real"): frechet(other, real),
        ("full", "frechet_real"): frechet(full, real),
        ("full_again", "frechet_real"): frechet(again, real),
        ("full_again", "frechet_full"): frechet(again, full),
    }
    for (variant, metric), distance in expected.items():
        parts = values(found, variant=variant, metric=metric)
        assert len(parts) == measured.COUNT and mean(parts) == pytest.approx(distance)
    assert values(found, variant="full", metric="frechet_full") == []


def test_a_quantizer_that_is_off_is_full_precision_in_everything(held: Held) -> None:
    found = table(held).of(UNIT, answered(held, "off"), [])
    check_scores(found, "off")
    full = table(held).references()
    for metric in ("drift", "flicker_change", "flicker_error", "similarity_error", "frechet_full"):
        assert all(x == pytest.approx(0, abs=1e-9) for x in values(found, metric=metric)), metric
    assert set(values(found, metric="same_as_full")) == {1.0}
    assert set(values(found, metric="sqnr")) == {100.0}
    assert values(found, metric="ssim") == pytest.approx([1.0] * measured.COUNT)
    for metric in ("agreement", "frechet_real"):
        assert values(found, metric=metric) == values(full, variant="full", metric=metric)


def test_a_change_of_the_clips_is_seen_by_each_measure_as_it_should(held: Held) -> None:
    """Clips without motion: nothing flickers, and the class that is lost is counted."""
    still = held.real[:, :1].expand_as(held.real).contiguous()
    flat = replace(answered(held, "off"), clips=torch.full_like(still, 128))
    found = table(held).of(UNIT, flat, [])
    moves = normal(held.clips)
    flicker = ((moves[:, 1:] - moves[:, :-1]).abs().mean((1, 2, 3, 4)) / 2).tolist()
    assert values(found, metric="flicker_error") == pytest.approx(flicker, abs=1e-6)
    assert values(found, metric="flicker_change") == pytest.approx([-x for x in flicker], abs=1e-6)
    # Halves that are equally bright are called left and dim by these judges: kind 0 alone.
    asked = (held.labels == 0).all(1).double().tolist()
    assert values(found, metric="agreement") == asked
    real = replace(answered(held, "off"), clips=held.real)
    found = table(held).of(UNIT, real, [])
    assert set(values(found, metric="agreement")) == {1.0}
    assert values(found, metric="frechet_real") == pytest.approx([0.0] * measured.COUNT, abs=1e-9)


def vectors(count: int, seed: int, size: int = 3) -> torch.Tensor:
    made = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    return made @ torch.diag(torch.arange(1.0, size + 1)) + seed


def test_contributions_are_the_derivative_of_the_distance() -> None:
    """Weighting one pair a little more changes the distance by what the pair contributes."""
    a, b = vectors(40, 0), vectors(40, 1) @ torch.tensor([[1.0, 0.5, 0], [0, 1, 0], [0, 0.2, 2]])
    found = contributions(a, b)
    distance = frechet(a, b)
    assert float(found.mean()) == pytest.approx(distance)
    copies = 400
    for place in (0, 7, 39):
        # Of so many copies one more of a pair is a small change, and N - 1 as good as N.
        rows = torch.cat([torch.arange(40).repeat(copies), torch.tensor([place])])
        many = frechet(a.repeat(copies, 1), b.repeat(copies, 1))
        slope = (frechet(a[rows], b[rows]) - many) * len(rows)
        assert slope == pytest.approx(float(found[place]) - distance, rel=0.1, abs=0.2)


def test_the_spread_of_contributions_is_the_distance_s_own() -> None:
    """Standard error of one sample's contributions, against distances of many samples."""
    drawn = [(vectors(200, 2 * k) - 2 * k, vectors(200, 2 * k + 1) - 2 * k) for k in range(200)]
    found = [contributions(a, b) for a, b in drawn]
    true = torch.stack([part.mean() for part in found]).std()
    told = torch.stack([part.std() for part in found]).mean() / 200**0.5
    assert float(told) == pytest.approx(float(true), rel=0.15)


def test_contributions_where_nothing_varies() -> None:
    still, a = torch.zeros(5, 2), vectors(5, 0, 2)
    assert contributions(still, still).tolist() == [0.0] * 5
    assert float(contributions(a, still).mean()) == pytest.approx(frechet(a, still))
    assert contributions(a, a).tolist() == pytest.approx([0.0] * 5, abs=1e-9)


def test_only_what_walked_to_all_clips_is_judged_by_its_clips(held: Held) -> None:
    told = [Told("trainable", "numbers", "none", [""], [7])]
    found = table(held).of(UNIT, answered(held, "W4A6", 2), told)
    assert set(found["metric"]) == {"sqnr", "sqnr_noise", "trainable", *BITS}
    assert values(found, metric="trainable") == [7.0]
    assert set(found["seed"]) == {1} and set(found["condition"]) == {"W4A6"}
    whole = table(held).of(UNIT, answered(held, "W4A6"), told)
    own = {name for name in METRICS if not name.endswith("_gap")}
    assert set(whole["metric"]) == own | {"trainable", "agreement_place", "agreement_shade"}
    check_scores(whole, "whole")


def test_noise_that_follows_from_nothing_is_left_out(held: Held) -> None:
    """Where ᾱ is 0 the state is the noise, whatever is predicted."""
    given = answered(held, "W4A6", 0)
    some, none = given.noise.clone(), torch.full_like(given.noise, torch.nan)
    some[0] = torch.nan
    found = table(held).of(UNIT, replace(given, noise=some), [])
    assert values(found, metric="sqnr_noise") == pytest.approx(given.noise[1:].mean(0).tolist())
    assert values(table(held).of(UNIT, replace(given, noise=none), []), metric="sqnr_noise") == []


def test_the_spread_is_the_distance_from_the_mean_over_seeds() -> None:
    rows = [
        {"variant": v, "condition": "W4A4", "seed": s, "item": i, "metric": "sqnr", "value": x,
         "direction": "higher"}
        for v, s, i, x in [
            ("a", 0, "p", 10.0), ("a", 1, "p", 14.0), ("a", 0, "q", 5.0), ("a", 1, "q", 5.0),
            ("alone", 0, "p", 3.0),
        ]
    ]  # fmt: skip
    rows.append(rows[0] | {"metric": "psnr"})
    found = gaps(pandas.DataFrame(rows))
    assert values(found, metric="sqnr_gap") == [2.0, 2.0, 0.0, 0.0]
    # 7.5 and 9.5 dB over both clips.
    score = found[found["metric"] == "score_gap"]
    assert score["value"].tolist() == [1.0, 1.0] and score["seed"].tolist() == [0, 1]
    assert set(score["item"]) == {""}
    assert set(found["variant"]) == {"a"} and set(found["metric"]) == {"sqnr_gap", "score_gap"}
    assert set(found["direction"]) == {"lower"}


def test_changes_that_cancel_between_clips_are_no_spread_of_the_score() -> None:
    rows = [
        {"variant": "a", "condition": "W4A4", "seed": s, "item": i, "metric": "sqnr", "value": x,
         "direction": "higher"}
        for s, i, x in [(0, "p", 1.0), (0, "q", 3.0), (1, "p", 3.0), (1, "q", 1.0)]
    ]  # fmt: skip
    found = gaps(pandas.DataFrame(rows))
    assert values(found, metric="sqnr_gap") == [1.0] * 4
    assert values(found, metric="score_gap") == [0.0] * 2
