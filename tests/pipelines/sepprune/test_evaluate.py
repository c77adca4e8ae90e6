"""The evaluate stage on tiny untrained nets and synthetic voices."""

import json

import numpy as np
import pytest
import torch

from pipelines.sepprune import evaluate, losses
from stages.core.files import listing
from stages.core.results import read_scores
from tests.pipelines.sepprune.evaluated import VARIANTS, Voices, made, parameters, part, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A root, its evaluation, and the files of weights that were loaded for it. Only to be read."""
    loaded = []
    original = evaluate.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "load", lambda *where: loaded.append(where) or original(*where))
        root = made(tmp_path_factory.mktemp("finished"))
        return root, run(root, root / "out"), loaded


@pytest.fixture
def table(finished):
    return read_scores(finished[1] / "scores.parquet")


def test_every_net_is_scored_on_every_mixture(table):
    gains = part(table, metric="si_sdri")
    assert set(gains["variant"]) == {"dense", *VARIANTS}
    found = part(gains, variant="sepprune", backbone="afrcnn", seed=1, dataset="seen")
    assert set(found["condition"]) == {
        "before", "one_epoch", "final", "ft=0", "ft=10", "ft=20", "ft=40",
        "total=20", "total=30", "total=40", "total=60",
    }  # fmt: skip
    assert (found.groupby("condition")["item"].nunique() == 5).all()
    dense = part(gains, variant="dense", backbone="sudormrf", dataset="unseen")
    assert set(dense["condition"]) == {""} and set(dense["seed"]) == {0} and len(dense) == 4


def test_conditions_name_the_right_snapshots(table):
    def values(variant, condition):
        rows = part(table, metric="si_sdri", variant=variant, backbone="sudormrf", seed=0)
        return part(rows, condition=condition, dataset="seen").sort_values("item")["value"].tolist()

    for variant in VARIANTS:
        assert values(variant, "before") == values(variant, "ft=0")
        assert values(variant, "one_epoch") == values(variant, "ft=10")
    # 40 is the largest total that all have: 20 + 20 with a mask search, 40 + 0 without.
    assert values("sepprune", "final") == values("sepprune", "ft=20")
    assert values("scratch", "final") == values("scratch", "ft=40") == values("scratch", "total=40")


def test_the_scores_are_those_of_the_net(finished, table):
    folder = finished[0] / "work/sepprune/prune/scratch/0-1/sudormrf/seed1"
    net = evaluate.load(folder, "u00020.safetensors")
    items, mix, sources = Voices().fixed("unseen")
    with torch.no_grad():
        estimates = torch.stack([net(one[None])[0] for one in mix])
    expected = losses.pit(losses.si_sdr, estimates.double(), sources.double())[0]
    start = losses.si_sdr(mix[:, None].double(), sources.double()).mean(1)
    rows = part(table, variant="scratch", backbone="sudormrf", seed=1, condition="ft=20")
    rows = part(rows, dataset="unseen", metric="si_sdri").set_index("item")["value"]
    np.testing.assert_allclose(rows[items], (expected - start).numpy(), atol=1e-3)


def test_sdr_stands_only_where_it_is_asked_for(table):
    assert set(part(table, metric="sdri")["condition"]) == {"", "final"}


def test_recovery_is_given_as_share_and_as_gap(table):
    place = {"backbone": "sudormrf", "dataset": "seen"}
    own = part(table, metric="si_sdri", variant="scratch", seed=1, condition="final", **place)
    dense = part(table, metric="si_sdri", variant="dense", **place)["value"].mean()
    where = {"variant": "scratch", "seed": 1, "condition": "final", **place}
    gap = part(table, metric="gap_db", **where)["value"].item()
    assert gap == pytest.approx(own["value"].mean() - dense)
    share = part(table, metric="recovery_share", **where)["value"]
    assert dense > 0 or share.empty  # untrained teachers gain nothing, so a share means nothing


def test_files_pictures_and_audio(finished):
    _, out, _ = finished
    names = {path.relative_to(out).as_posix() for path in listing(out)}
    assert {"scores.parquet", "metrics.json", "exhibits.json"} <= names
    assert {n for n in names if n.startswith("curves/")} == {
        f"curves/recovery-{backbone}-{variant}.csv"
        for variant, arm in VARIANTS.items()
        for backbone in arm["backbones"]
    }
    curve = (out / "curves/recovery-sudormrf-scratch.csv").read_text().splitlines()
    assert curve[0] == "updates,si_sdri,low,high,unseen,unseen_low,unseen_high"
    assert [line.split(",")[0] for line in curve[1:]] == ["0", "10", "20", "40"]
    listed = json.loads((out / "exhibits.json").read_text())
    drawn = {entry["name"] for entry in listed if entry["kind"] == "picture"}
    assert drawn == {"recovery-sudormrf", "recovery-afrcnn", "comparison", "spectrograms"}
    clips = [entry for entry in listed if entry["kind"] == "audio"]
    # The unseen mixture may not be handed on: it has no credit.
    assert [clip["title"] for clip in clips] == [
        "Mixture",
        "Voice 1, reference", "Voice 1, dense", "Voice 1, SepPrune",
        "Voice 2, reference", "Voice 2, dense", "Voice 2, SepPrune",
    ]  # fmt: skip
    assert {clip["group"] for clip in clips} == {"Seen speakers, mixture 1"}
    assert clips[0]["caption"] == "Mixed from two voices."
    assert "SI-SDRi" in clips[2]["caption"]
    for clip in clips:
        assert (out / clip["file"]).stat().st_size < 40_000
    for name in names:
        assert "/" not in name or name.startswith(("curves/", "pictures/", "audio/"))


def test_again_after_a_kill_the_same_bytes(finished, tmp_path, monkeypatch):
    """A killed stage scores what is left, and ends with the bytes of an undisturbed one."""
    _, undisturbed, _ = finished
    root = made(tmp_path)
    done, original = [], evaluate.scores

    def killed(arm, *rest):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(arm.name)
        return original(arm, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate, "scores", killed)
        run(root, root / "killed")
    again = []
    with monkeypatch.context() as patch:
        patch.setattr(
            evaluate, "scores", lambda arm, *rest: again.append(arm.name) or original(arm, *rest)
        )
        out = run(root, root / "again")
    assert len(done) == 4 and len(again) == 8 and not set(done) & set(again)
    files = {path.relative_to(undisturbed) for path in listing(undisturbed)}
    assert files == {path.relative_to(out) for path in listing(out)}
    for name in sorted(files):
        assert (undisturbed / name).read_bytes() == (out / name).read_bytes(), name


def test_each_snapshot_is_loaded_once(finished):
    loaded = finished[2]
    assert len(loaded) == 2 + 5 * 2 * 4 + 2  # teachers, 5 arms x 2 seeds x 4 snapshots, 2 to hear
    assert len(set(loaded)) == len(loaded) - 2


def test_unseen_speakers_may_be_left_out_of_the_curves(tmp_path, finished):
    out = run(made(tmp_path), tmp_path / "out", parameters(evaluate={"all_curves": False}))
    table = read_scores(out / "scores.parquet")
    unseen = part(table, dataset="unseen", metric="si_sdri")
    assert set(unseen["condition"]) == {"", "before", "one_epoch", "final"}
    full = read_scores(finished[1] / "scores.parquet")
    ours, theirs = (part(t, dataset="seen").reset_index(drop=True) for t in (table, full))
    assert ours.equals(theirs)
    curve = (out / "curves/recovery-sudormrf-scratch.csv").read_text()
    assert curve.startswith("updates,si_sdri,low,high\n")
