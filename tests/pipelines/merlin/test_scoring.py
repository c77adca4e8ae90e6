"""How alike hidden and complete windows are represented, and what that is held against."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.merlin import scoring
from pipelines.merlin.data import Series
from pipelines.merlin.impute import inputs as filled
from pipelines.merlin.model import load
from stages.core.results import read_scores
from tests.pipelines.merlin.evaluated import MASKS, VARIANTS, made, part, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = made(tmp_path_factory.mktemp("project"))
    return root, run(root, root / "out")


@pytest.fixture(scope="module")
def table(finished):
    return read_scores(finished[1] / "scores.parquet")


def test_likeness_is_held_against_that_of_other_windows(finished, table):
    """By brute force: every window's sensor against the same sensor in all other windows."""
    root, _ = finished
    series = Series.load(root / "work/merlin/prepare", "roads")
    starts = series.starts("test")[::2]
    window, folder = series.window(starts), "distill/merlin/0-1/roads/stid/seed1"
    model = load(root / "work/merlin" / folder)

    def hidden(key):
        x = filled("zeros", window, series.kept(key, starts))
        with torch.no_grad():
            return model(x, window.tod, window.dow)[1]

    whole, own = hidden("complete"), hidden("mcar-90")
    cosines = torch.stack([
        torch.cosine_similarity(own, whole[j : j + 1], dim=1).mean(1) for j in range(len(starts))
    ], 1).double().numpy()  # fmt: skip
    same = cosines.diagonal()
    other = (cosines.sum(1) - same) / (len(starts) - 1)
    rows = part(table, variant="merlin", seed=1, condition="mcar-90").sort_values("item")
    groups = np.array_split(np.arange(len(starts)), 4)
    for metric, values in (
        ("similarity", same), ("similarity_other", other), ("similarity_gap", same - other)
    ):  # fmt: skip
        found = part(rows, metric=metric)["value"].to_numpy()
        np.testing.assert_allclose(found, [values[g].mean() for g in groups], atol=1e-5)


def test_a_net_that_maps_all_windows_to_one_point_gains_nothing():
    """Trap: it has cosine 1 with the complete window, and with every other one."""
    generator = torch.Generator().manual_seed(0)
    point = scoring.units(torch.randn(1, 5, 3, generator=generator)).expand(4, -1, -1)
    alike = scoring.Alike.of(point, point, point.sum(0), 4)
    torch.testing.assert_close(alike.same, torch.ones(4).double())
    torch.testing.assert_close(alike.other, torch.ones(4).double())


def test_representations_of_one_net_are_compared_and_of_several_not(table):
    alike = part(table, metric="similarity")
    assert set(alike["variant"]) == {*VARIANTS, "dense"} - {"per_rate"}
    assert set(alike["condition"]) == set(MASKS)
    assert (alike["value"] <= 1 + 1e-6).all() and (alike["value"] > -1).all()
    means = part(alike, variant="merlin").groupby("condition")["value"].mean()
    assert means["mcar-25"] > means["mcar-90"]


def test_likeness_after_training_is_shown_as_a_mean_over_seeds(finished):
    lines = (finished[1] / "likeness.csv").read_text().splitlines()
    assert lines[0].endswith('"representation, same","representation, other","code, same",'
                             '"code, other"')  # fmt: skip
    assert "METR-LA,STID,Merlin,0.850,0.250,0.750,0.050" in lines
    assert 'METR-LA,STID,"all rates, no teacher",0.850,0.250,,' in lines
    assert len(lines) == 1 + len(VARIANTS) - 1  # per_rate has none
