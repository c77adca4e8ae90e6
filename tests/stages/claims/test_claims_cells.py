"""Claims that are measured in several cells."""

import pytest

from tests.stages.claims.claimed import LAB, claim, one, rows, spread, table


def nets(*gains):
    parts = []
    for i, gain in enumerate(gains):
        parts.append(rows(spread(8 + gain), backbone=f"net{i}"))
        parts.append(rows(spread(8, seed=7), backbone=f"net{i}", variant="base"))
    return table(*parts)


def celled(combine, *cells):
    return claim(cells={"combine": combine, "of": list(cells)})


def test_the_weakest_cell_decides_and_is_named():
    entry = celled("each", {"backbone": "net0"}, {"backbone": "net1", "published": 5.0})
    found = one(entry, nets(2.0, 1.0))
    assert found["verdict"] == "holds in direction"
    assert (found["headline"], found["published"]) == ("net1", 5.0)
    assert found["value"] == pytest.approx(1.0, abs=1e-6)
    assert [c["verdict"] for c in found["cells"]] == ["holds", "holds in direction"]
    assert [c["backbone"] for c in found["cells"]] == ["net0", "net1"]
    assert "1 holds, 1 holds in direction" in found["reason"]


def test_among_equal_verdicts_the_one_nearer_to_the_line():
    found = one(celled("each", {"backbone": "net0"}, {"backbone": "net1"}), nets(3.0, 2.0))
    assert found["headline"] == "net1"
    found = one(celled("any", {"backbone": "net0"}, {"backbone": "net1"}), nets(2.0, 3.0))
    assert found["headline"] == "net1"


def test_the_mean_of_cells():
    found = one(celled("mean", {"backbone": "net0"}, {"backbone": "net1"}), nets(3.0, -1.0))
    assert found["verdict"] == "holds"
    assert found["value"] == pytest.approx(1.0, abs=1e-6)
    assert [c["verdict"] for c in found["cells"]] == ["holds", "fails"]


def test_a_cell_that_the_profile_leaves_out():
    entry = celled("each", {"backbone": "net0"}, {"backbone": "net1", "needs": LAB})
    found = one(entry, nets(2.0))
    assert found["verdict"] == "holds"
    assert found["cells"][1]["verdict"] == "not testable here"
    assert found["cells"][1]["value"] is None
    assert "1 of 2 cells (lab)" in found["reason"]
    assert one(entry, nets(2.0, 2.0))["cells"][1]["verdict"] == "holds"  # it is there after all


def test_cells_left_out_can_decide():
    cells = [{"backbone": "net0"}, {"backbone": "net1"}, {"backbone": "net2", "needs": LAB}]
    assert one(celled("most", *cells), nets(2.0, 2.0))["verdict"] == "holds"
    found = one(celled("most", *cells), nets(2.0, -2.0))
    assert found["verdict"] == "inconclusive"
    assert "these would decide" in found["reason"]
