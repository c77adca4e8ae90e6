from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.merlin import masks
from pipelines.merlin.masks import Blocks, Changing, Masks, rate_of

RATES = [0.25, 0.5, 0.75, 0.9]
LENGTH, SENSORS = 997, 7  # a length that no rate divides


def spec(**change: object) -> Masks:
    own = {
        "seed": 0,
        "nested": RATES,
        "unseen": [0.1, 0.4],
        "changing": {"low": 0.0, "high": 1.0, "steps": 4},
        "blocks": {"rates": [0.25, 0.5], "shortest": 6, "longest": 24},
    }
    return Masks.model_validate({**own, **change})


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    return masks.draw(spec(), LENGTH, SENSORS, "a")


def test_every_sensor_loses_exactly_so_many_steps(drawn: dict[str, np.ndarray]) -> None:
    for name, mask in drawn.items():
        assert mask.shape == (LENGTH, SENSORS) and set(np.unique(mask)) <= {0, 1}
        rate = rate_of(name)
        if rate is not None:
            assert (mask == 0).sum(0).tolist() == [int(LENGTH * rate)] * SENSORS, name


def test_a_lower_rate_hides_a_part_of_what_a_higher_one_hides(drawn: dict[str, np.ndarray]) -> None:
    chain = [drawn[masks.key("mcar", rate)] for rate in RATES]
    for low, high in pairwise(chain):
        assert (low >= high).all()


def test_unseen_rates_stand_in_no_nest(drawn: dict[str, np.ndarray]) -> None:
    """Drawn among the nested points they would be easier, or harder, than fresh ones."""
    hidden = drawn["mcar-40"] == 0
    also = (drawn["mcar-50"] == 0)[hidden].mean()
    assert abs(also - 0.5) < 0.05
    assert not (drawn["mcar-10"] >= drawn["mcar-25"]).all()


def test_points_are_hidden_without_pattern(drawn: dict[str, np.ndarray]) -> None:
    gone = drawn["mcar-50"] == 0
    assert abs((gone[1:] & gone[:-1]).mean() - 0.25) < 0.02  # neighbours in time
    assert abs((gone[:, 1:] & gone[:, :-1]).mean() - 0.25) < 0.02  # sensors


def test_changing_rates_change_within_a_window() -> None:
    how = Changing(low=0.0, high=1.0, steps=4)
    mask = masks.changing(40_000, 3, how, "seed")
    assert abs(mask.mean() - 0.5) < 0.02
    # Steps of one stretch share a rate: two of them are alike more often (U(0, 1): 2/3) than two
    # that lie a stretch apart (1/2).
    beside, apart = ((mask[k:] == mask[:-k]).mean() for k in (1, 4))
    assert abs(beside - (3 / 4 * 2 / 3 + 1 / 4 * 1 / 2)) < 0.01
    assert abs(apart - 1 / 2) < 0.01


def test_the_stretches_of_sensors_begin_at_different_steps() -> None:
    """Changes are likelier where a stretch ends: that must not be at one step for all sensors."""
    how = Changing(low=0.0, high=1.0, steps=5)
    mask = masks.changing(5_000, 200, how, "seed").astype(int)
    changes = np.abs(np.diff(mask, axis=0)).mean(1)
    by_phase = np.array([changes[phase::5].mean() for phase in range(5)])
    assert np.ptp(by_phase) < 0.02  # begun together, an edge would show every fifth step


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_outages_have_their_lengths_and_their_count(rate: float) -> None:
    how = Blocks(rates=[rate], shortest=6, longest=24)
    mask = masks.blocks(LENGTH, SENSORS, rate, how, "seed")
    assert (mask == 0).sum(0).tolist() == [int(LENGTH * rate)] * SENSORS
    for column in mask.T:
        edges = np.flatnonzero(np.diff(np.concatenate([[1], column, [1]])))
        lengths = edges[1::2] - edges[::2]
        # One is cut to meet the count, one by the ends of the series.
        assert (lengths >= 6).sum() >= len(lengths) - 3
        if rate < 0.5:
            assert (lengths <= 24).mean() > 0.8  # longer only where two of them touch


def test_outages_spare_no_step() -> None:
    how = Blocks(rates=[0.5], shortest=2, longest=5)
    mask = masks.blocks(101, 625, 0.5, how, "seed")
    share = 1 - mask.mean(1)
    assert abs(share - 50 / 101).max() < 0.1  # five standard errors


def test_a_draw_depends_on_seed_and_data_set_alone(drawn: dict[str, np.ndarray]) -> None:
    again = masks.draw(spec(), LENGTH, SENSORS, "a")
    other = masks.draw(spec(), LENGTH, SENSORS, "b")
    seed = masks.draw(spec(seed=1), LENGTH, SENSORS, "a")
    fewer = masks.draw(spec(unseen=[0.4], blocks=None, changing=None), LENGTH, SENSORS, "a")
    assert set(fewer) == {"mcar-25", "mcar-50", "mcar-75", "mcar-90", "mcar-40"}
    for name, mask in drawn.items():
        assert (again[name] == mask).all()
        assert (other[name] != mask).any() and (seed[name] != mask).any()
        assert name not in fewer or (fewer[name] == mask).all()


def test_names() -> None:
    assert masks.key("mcar", 0.25) == "mcar-25"
    assert rate_of("block-50") == 0.5
    assert rate_of("complete") is None and rate_of("changing") is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"unseen": [0.25]}, "mcar-25"),
        ({"nested": [0.25, 0.254]}, "mcar-25"),
        ({"nested": [1.0]}, "less than 1"),
        ({"changing": {"low": 0.5, "high": 0.5, "steps": 3}}, "low must be below high"),
        ({"blocks": {"rates": [0.5], "shortest": 9, "longest": 3}}, "shortest"),
    ],
)
def test_impossible_masks_are_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        spec(**change)
