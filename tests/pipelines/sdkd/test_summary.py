"""From scores to sums: on tables made by hand."""

import pandas
import pytest
import torch

from pipelines.sdkd import summary
from stages.core.results import check_scores
from stages.evaluate.fields import Score

KEY = {"paper": "sdkd", "backbone": "unet", "dataset": "waves"}


def rows(variant, values, metric="mse", condition="", seed=0):
    score = {
        **KEY, "variant": variant, "condition": condition, "seed": seed, "metric": metric,
        "unit": "1", "direction": "lower", "censored": False,
    }  # fmt: skip
    return [score | {"item": f"w{i}", "value": float(v)} for i, v in enumerate(values)]


def table(*parts):
    return pandas.DataFrame([row for part in parts for row in part])


def test_a_table_keeps_every_score_in_its_place():
    frames = torch.arange(6.0).view(2, 3).double()
    scores = {
        "mse": Score(frames, torch.tensor([10.0, 20.0]).double()),
        "psnr": Score(-frames, torch.tensor([-10.0, -20.0]).double()),
    }
    made = summary.table_of(scores, ["a", "b"], "K", variant="none", seed=3, **KEY)
    check_scores(made, "made")
    found = made.set_index(["metric", "item", "condition"])["value"]
    assert len(made) == 2 * 2 * 4
    assert found["mse", "b", ""] == 20 and found["mse", "b", "lead=1"] == 3
    assert found["psnr", "a", "lead=3"] == -2
    units = made.drop_duplicates("metric").set_index("metric")
    assert units.loc["mse", "unit"] == "(K)²" and units.loc["psnr", "direction"] == "higher"


def test_savings_are_against_the_student_without_distillation():
    made = table(
        rows("none", [2, 4], seed=0), rows("none", [4, 6], seed=1),
        rows("sdkd", [1, 2], seed=0), rows("sdkd", [2, 3], seed=1),
        rows("sdkd", [9, 9], condition="lead=1"),
        rows("none", [1, 1], metric="mae"), rows("sdkd", [1, 1.5], metric="mae"),
        rows("sdkd", [0.5, 0.7], metric="ssim"),
    )  # fmt: skip
    found = summary.metrics(made)["unet"]
    assert found["sdkd"] == {
        "mse": 2.0, "saving_mse": 50.0, "mae": 1.25, "saving_mae": -25.0, "ssim": 0.6,
    }  # fmt: skip
    assert found["none"] == {"mse": 4.0, "mae": 1.0}


def test_without_that_student_there_are_no_savings():
    assert summary.metrics(table(rows("sdkd", [1, 3]))) == {"unet": {"sdkd": {"mse": 2.0}}}


def test_curves_go_by_lead_in_the_order_of_numbers():
    parts = [
        rows("sdkd", [lead, 3 * lead], metric=metric, condition=f"lead={lead}")
        for lead in (10, 9, 2, 1)
        for metric in summary.BY_LEAD
    ]
    curve = summary.curves(table(*parts))["unet", "sdkd"]
    assert curve["lead"].tolist() == [1, 2, 9, 10]
    assert curve["mae"].tolist() == [2, 4, 18, 20]


def test_ratios_are_paired_with_the_undistilled_student():
    none = [[1.0, 3.0, 2.0], [1.2, 2.8, 2.3]]
    parts = [rows("none", values, seed=s) for s, values in enumerate(none)]
    parts += [rows("sdkd", [0.8 * v for v in values], seed=s) for s, values in enumerate(none)]
    parts += [rows("teacher", [0.5, 1.5, 1.0]), rows("persistence", [9, 9, 9])]
    found = summary.ratios(
        table(*parts), "unet", ["none", "sdkd", "teacher", "persistence"], ["mse"]
    )
    assert set(found) == {"sdkd", "teacher"}
    ratio = found["sdkd"]["mse"]
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.8, 0.8, 0.8))
    # One teacher stands against each seed of the student.
    teacher = found["teacher"]["mse"]
    assert teacher.value == pytest.approx(3.0 / (12.3 / 2))
    assert teacher.low < teacher.value < teacher.high


def test_ratios_need_that_student():
    assert summary.ratios(table(rows("sdkd", [1, 2])), "unet", ["sdkd"], ["mse"]) == {}


@pytest.mark.parametrize(
    ("variant", "title"),
    [("teacher", "teacher"), ("teacher_simvp", "teacher SimVP"), ("sdkd_low", "SDKD, low band")],
)
def test_titles(variant, title):
    assert summary.title_of(variant) == title


def test_band_names():
    assert summary.band_names([0.0, 4.0, 8.0, 23.0]) == [
        "mse_band_0_4", "mse_band_4_8", "mse_band_8_23",
    ]  # fmt: skip
