"""Which stages may run beside each other, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.dag import Node
from stages.core.schedule import Machine, Need, Schedule


def node(name: str, *above: str) -> Node:
    deps = tuple(f"work/p/{n}" for n in above)
    return Node("p", name, None, None, deps, (), (f"work/p/{name}",))


def at(name: str) -> str:
    return f"pipelines/p/dvc.yaml:{name}"


def started(schedule: Schedule, machine: Machine) -> list[str]:
    return [address.rpartition(":")[2] for address, _ in schedule.start(machine)]


CHAIN = [node("prepare"), node("teach", "prepare"), node("evaluate", "teach"), node("other")]


def test_a_stage_waits_for_what_it_reads() -> None:
    schedule, machine = Schedule(CHAIN, {}), Machine(cores=4, slots=4)
    assert started(schedule, machine) == ["prepare", "other"]
    schedule.end(at("prepare"), "cached")
    assert started(schedule, machine) == ["teach"]
    assert not schedule.over
    schedule.end(at("other"), "ran")
    schedule.end(at("teach"), "ran")
    assert started(schedule, machine) == ["evaluate"]
    schedule.end(at("evaluate"), "ran")
    assert schedule.over
    assert (schedule.count("ran"), schedule.count("cached")) == (3, 1)


def test_what_lies_below_an_output_stands_on_it_too() -> None:
    found = Schedule([node("a"), Node("p", "b", None, None, ("work/p/a/file",), (), ())], {})
    assert found.above[at("b")] == [at("a")]


def test_a_failure_leaves_out_what_depends_on_it_and_no_more() -> None:
    schedule, machine = Schedule(CHAIN, {}), Machine(cores=4, slots=4)
    schedule.start(machine)
    assert schedule.end(at("prepare"), "failed") == [at("teach"), at("evaluate")]
    assert not schedule.over, "the other still runs"
    schedule.end(at("other"), "ran")
    assert schedule.over and schedule.count("left out") == 2


def test_the_longest_chain_goes_first() -> None:
    nodes = [node("short"), node("first"), node("second", "first")]
    seconds = {at("short"): 5.0, at("first"): 1.0, at("second"): 9.0}
    schedule = Schedule(nodes, seconds)
    assert schedule.chain[at("first")] == 10.0
    assert schedule.ready() == [at("first"), at("short")]


def test_threads_times_jobs_stay_within_the_cores() -> None:
    nodes = [node(name) for name in "abcd"]
    schedule = Schedule(nodes, {}, {at(name): Need(2) for name in "abcd"})
    machine = Machine(cores=4, slots=3)
    assert started(schedule, machine) == ["a", "b"]
    assert machine.cores == 0


def test_bench_has_the_machine_to_itself() -> None:
    nodes = [node("a"), node("bench", "a"), node("b"), node("c")]
    seconds = {at("bench"): 100.0, at("b"): 70.0}
    schedule, machine = Schedule(nodes, seconds), Machine(cores=2, slots=2)
    taken = dict(schedule.start(machine))
    assert set(taken) == {at("a"), at("b")}
    schedule.end(at("a"), "ran")
    machine.give_back(taken[at("a")])
    assert not schedule.start(machine), "bench is the most urgent: c must not overtake it"
    schedule.end(at("b"), "ran")
    machine.give_back(taken[at("b")])
    alone = dict(schedule.start(machine))
    assert set(alone) == {at("bench")} and not schedule.start(machine)
    schedule.end(at("bench"), "ran")
    machine.give_back(alone[at("bench")])
    assert started(schedule, machine) == ["c"]


def test_gpus_are_leased_by_id_and_memory() -> None:
    nodes = [node(name) for name in "abc"]
    schedule = Schedule(nodes, {}, {at(name): Need(1, gpu_bytes=6) for name in "abc"})
    machine = Machine(cores=8, slots=8, gpus={0: 10, 1: 8})
    taken = schedule.start(machine)
    assert [lease.gpu for _, lease in taken] == [1, 0], "the fullest that has room comes first"
    assert machine.gpus == {0: 4, 1: 2}
    machine.give_back(taken[0][1])
    assert [lease.gpu for _, lease in schedule.start(machine)] == [1]


def test_a_stage_is_ended_by_its_last_run_or_not_for_long() -> None:
    """One that never ran here may take hours, as a teacher does."""
    nodes = [node(name) for name in "abc"]
    schedule = Schedule(nodes, {at("a"): 5.0, at("b"): 900.0})
    assert schedule.limits == {at("a"): 600.0, at("b"): 9000.0, at("c"): 48 * 3600.0}


def test_a_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="circle"):
        Schedule([node("a", "b"), node("b", "a")], {})


@given(
    st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=10),
    st.lists(st.booleans(), min_size=10, max_size=10),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_every_stage_runs_once_after_what_it_reads(
    above: list[set[int]], whole: list[bool], jobs: int, chance: object
) -> None:
    """Whatever the graph and the order in which stages end: nothing is lost, nothing is doubled."""
    nodes = [node(f"s{i}", *(f"s{j}" for j in own if j < i)) for i, own in enumerate(above)]
    needs = {n.address: Need(1, whole=whole[i]) for i, n in enumerate(nodes)}
    schedule, machine = Schedule(nodes, {}, needs), Machine(cores=jobs, slots=jobs)
    running: dict[str, object] = {}
    done: list[str] = []
    while not schedule.over:
        for address, lease in schedule.start(machine):
            assert all(b in done for b in schedule.above[address]) and address not in done
            running[address] = lease
        assert 1 <= len(running) <= jobs
        assert len(running) == 1 or not any(needs[a].whole for a in running)
        address = chance.choice(sorted(running))  # type: ignore[attr-defined]
        machine.give_back(running.pop(address))  # type: ignore[arg-type]
        schedule.end(address, "ran")
        done.append(address)
    assert sorted(done) == sorted(schedule.nodes) and machine.cores == machine.slots == jobs
