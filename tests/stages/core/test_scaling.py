"""The simulation of many machines, against what can be said without it."""

from __future__ import annotations

import pytest

from stages.core.dag import Node
from stages.core.scaling import Costs, Work, repeated, simulate

FREE = Costs(start=0.0, record=0.0, worker=1e12, remote=1e12)


def work(
    name: str, seconds: float, *above: str, paper: str = "p", alone: bool = False, mb: float = 0.0
) -> Work:
    deps = tuple(f"work/{paper}/{n}" for n in above)
    node = Node(paper, name, None, None, deps, (), (f"work/{paper}/{name}",))
    return Work(node, seconds, mb, mb, alone)


MANY = [work(f"s{k}", 10.0) for k in range(16)]
CHAIN = [work("a", 1.0), work("b", 2.0, "a"), work("c", 3.0, "b")]


@pytest.mark.parametrize("workers", [1, 2, 4, 16, 64])
def test_equal_stages_fill_the_workers(workers: int) -> None:
    found = simulate(MANY, workers, FREE)
    assert found.seconds == pytest.approx(160 / min(workers, 16))
    assert found.limit == ("the workers" if workers <= 16 else "the longest chain")


def test_a_chain_takes_as_long_on_any_number_of_workers() -> None:
    found = [simulate(CHAIN, workers, FREE) for workers in (1, 2, 64)]
    assert [own.seconds for own in found] == pytest.approx([6.0] * 3)
    assert found[-1].limit == "the longest chain"


def test_each_stage_pays_for_its_start_and_the_caller_takes_over_one_at_a_time() -> None:
    assert simulate(CHAIN, 8, Costs(2.0, 1.0, 1e12, 1e12)).seconds == pytest.approx(6 + 3 * 3)
    found = simulate(MANY, 16, Costs(0.0, 20.0, 1e12, 1e12))
    assert found.seconds == pytest.approx(10 + 16 * 20)
    assert found.limit == "DVC's lock"


def test_transfers_share_the_remote_and_none_is_faster_than_its_worker() -> None:
    one = [work("a", 1.0, mb=100.0)]
    assert simulate(one, 1, Costs(0.0, 0.0, 10.0, 1e12)).seconds == pytest.approx(10 + 1 + 10)
    many = [work(f"s{k}", 1.0, mb=100.0) for k in range(8)]
    found = simulate(many, 8, Costs(0.0, 0.0, 1e12, 100.0))
    assert found.seconds == pytest.approx(8 * 2) and found.limit == "the remote"


def test_what_measures_has_one_device() -> None:
    benches = [work(f"b{k}", 5.0, alone=True) for k in range(4)]
    found = simulate([*MANY, *benches], 256, FREE)
    assert found.seconds == pytest.approx(20)
    assert found.limit == "the device that measures"


def test_no_order_beats_the_bounds() -> None:
    works = repeated([*MANY, *CHAIN, work("x", 7.0, "s1", "c", alone=True, mb=3.0)], 5, 1)
    for workers in (1, 3, 9, 100):
        found = simulate(works, workers, Costs(1.0, 0.5, 20.0, 30.0))
        assert found.seconds >= max(found.bounds.values()) - 1e-9


def test_papers_and_seeds_are_repeated_and_foundations_are_not() -> None:
    seeded = Node("p", "cut", "v", "0-2", ("work/p/teach",), (), ("work/p/cut/v/0-2",))
    shared = Node("foundations/f", "make", None, None, (), (), ("work/foundations/f/make",))
    base = [
        Work(shared, 1.0, 0, 0, False),
        work("teach", 1.0, "../foundations/f/make"),
        Work(seeded, 1.0, 0, 0, False),
        work("evaluate", 1.0, "cut"),
    ]
    made = repeated(base, 2, 3)
    assert len(made) == 1 + 2 * (1 + 3 + 1)
    addresses = [w.node.address for w in made]
    assert len(set(addresses)) == len(addresses)
    copies = [w for w in made if w.node.paper == "p1"]
    assert all(d.startswith("work/p1/") for w in copies for d in w.node.deps if "f/" not in d)
    # Evaluation waits for every seed of its own paper, and for no other's.
    last = next(w.node for w in copies if w.node.stage == "evaluate")
    read = [w.node for w in made if any(o.startswith(f"{last.deps[0]}/") for o in w.node.outs)]
    assert len(read) == 3 and {n.paper for n in read} == {"p1"}
