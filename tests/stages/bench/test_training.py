import pytest

from stages.bench import training

ENTRY = "tests.stages.bench.nets:linear_step"
WIDTH = 1000
MATRIX_MB = WIDTH * WIDTH * 4 / 1e6


@pytest.fixture(scope="module")
def costs():
    tasks = {"plain": {"width": WIDTH}, "hoard": {"width": WIDTH, "hoard": 5_000_000}}
    found = training.measure(ENTRY, tasks, threads=1, warmup=2, repeats=3)
    return {cost.name: cost for cost in found}


def test_steps_are_timed(costs):
    for cost in costs.values():
        assert len(cost.milliseconds) == 3 and min(cost.milliseconds) > 0


def test_the_allocator_sees_weights_gradient_and_adam_state(costs):
    # weight, gradient, two moments; Adam's update may hold up to two matrices more for a moment.
    assert 4 * MATRIX_MB <= costs["plain"].allocated_mb <= 6.1 * MATRIX_MB


def test_the_allocator_is_exact_to_the_byte(costs):
    more = costs["hoard"].allocated_mb - costs["plain"].allocated_mb
    assert more == pytest.approx(5.0, abs=1e-9)


def test_resident_memory_rises_by_gradient_and_scratch_but_not_by_what_stays(costs):
    for cost in costs.values():
        if cost.resident_rise_mb is not None:
            assert 0.9 * MATRIX_MB <= cost.resident_rise_mb <= 3.5 * MATRIX_MB


def test_an_error_in_the_step_is_shown():
    with pytest.raises(RuntimeError, match="no such net"):
        training.measure("tests.stages.bench.nets:failing_step", {"x": {}}, 1, 1, 1)
