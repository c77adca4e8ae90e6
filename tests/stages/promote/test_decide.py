"""When a network made anew takes the place of the one in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stages.core import dag
from stages.core.errors import UserError
from stages.core.params import read_yaml
from stages.promote.decide import Decision, Finding, Judged, decide
from stages.promote.settings import Settings, load, with_data_of

ROOT = Path(__file__).resolve().parents[3]
MEAN = {"aggregate": "mean"}
SETTINGS = Settings.model_validate(
    {
        "variant": "small",
        "quality": [
            {"metric": "error", "condition": None, **MEAN, "compare": "ratio", "margin": 0.05},
            {"metric": "gain", "condition": None, **MEAN, "compare": "difference", "margin": 0.2},
        ],
        "cost": [{"metric": "latency_ms", "margin": 0.1}],
        "now": {},
    }
)


def rows(metric: str, direction: str, value: float, noise: float = 0.0) -> pd.DataFrame:
    """Three seeds and ten items in two conditions, the second twice as large."""
    rng = np.random.default_rng(0)
    made = [
        {
            "paper": "p", "backbone": "net", "dataset": "d", "variant": "small", "condition": c,
            "seed": s, "item": f"i{i}", "metric": metric, "unit": "", "direction": direction,
            "value": value * scale * (1 + noise * float(rng.normal())), "censored": False,
        }
        for c, scale in (("easy", 1.0), ("hard", 2.0)) for s in range(3) for i in range(10)
    ]  # fmt: skip
    return pd.DataFrame(made)


def judged(error: float = 1.0, gain: float = 5.0, ms: float = 10.0, **verdicts: str) -> Judged:
    evaluate = pd.concat([rows("error", "lower", error, 0.02), rows("gain", "higher", gain)])
    return Judged(evaluate, rows("latency_ms", "lower", ms), verdicts)


def found(decision: Decision, what: str) -> Finding:
    (finding,) = [f for f in decision.findings if f.what == what]
    return finding


def test_the_same_network_is_promoted_and_every_comparison_is_neutral() -> None:
    decision = decide(SETTINGS, judged(fast="holds"), judged(fast="holds"))
    assert decision.outcome == "promoted" and decision.promotes
    error, gain, ms = (found(decision, what) for what in ("error", "gain", "latency_ms"))
    assert (error.value, error.low, error.high, error.bound) == (1, 1, 1, 1.05)
    assert (gain.value, gain.low, gain.high, gain.bound) == (0, 0, 0, -0.2)
    assert (ms.value, ms.low, ms.bound) == (1, None, 1.1)
    assert found(decision, "all").told == "none fails that did not before"


def test_the_first_network_has_nothing_to_be_held_against() -> None:
    decision = decide(SETTINGS, None, judged())
    assert decision.outcome == "first" and decision.promotes and not decision.findings


@pytest.mark.parametrize(
    ("challenger", "what", "told"),
    [
        (judged(error=1.2), "error", "worse"),
        (judged(gain=4.0), "gain", "worse"),
        (judged(ms=12.0), "latency_ms", "more"),
        (judged(fast="fails"), "fast", "holds, now fails"),
        (judged(sound="check failed"), "sound", "not there, now check failed"),
    ],
)
def test_one_answer_against_it_refuses_the_challenger(
    challenger: Judged, what: str, told: str
) -> None:
    decision = decide(SETTINGS, judged(fast="holds"), challenger)
    assert decision.outcome == "refused" and not decision.promotes
    assert [f.what for f in decision.findings if not f.passed] == [what]
    assert found(decision, what).told == told


def test_a_little_worse_within_the_margins_is_not_worse() -> None:
    decision = decide(SETTINGS, judged(), judged(error=1.03, gain=4.95, ms=10.9))
    assert decision.outcome == "promoted"
    assert found(decision, "error").value == pytest.approx(1.03)
    # The mean over conditions: -0.05 in the easy one, -0.1 in the hard one.
    assert found(decision, "gain").value == pytest.approx(-0.075)


def test_what_is_not_shown_is_not_taken_for_granted() -> None:
    """Equal on average, but noisy beyond the margin: the interval decides, not the value."""
    noisy = rows("error", "lower", 1.0, 0.5)
    noisy["value"] *= 1.0 / noisy["value"].mean() * judged().evaluate.iloc[:60]["value"].mean()
    other = Judged(pd.concat([noisy, rows("gain", "higher", 5.0)]), judged().bench, {})
    finding = found(decide(SETTINGS, judged(), other), "error")
    assert not finding.passed and finding.told == "not shown to be no worse"
    assert finding.low is not None and finding.high is not None
    assert finding.low < 1.05 < finding.high


def test_a_claim_that_failed_before_may_go_on_failing() -> None:
    decision = decide(SETTINGS, judged(fast="fails"), judged(fast="fails"))
    assert decision.outcome == "promoted"


def test_scores_that_are_not_there_are_named() -> None:
    wrong = SETTINGS.model_copy(update={"variant": "tiny"})
    with pytest.raises(UserError, match="evaluate has no 'error' of 'tiny'; there: nothing"):
        decide(wrong, judged(), judged())
    without = Judged(judged().evaluate, None, {})
    with pytest.raises(UserError, match="'latency_ms' is asked for, but the paper has no bench"):
        decide(SETTINGS, without, without)
    none = judged().evaluate.assign(direction="none")
    with pytest.raises(UserError, match="of 'error' neither more nor less is better"):
        decide(SETTINGS, Judged(none, judged().bench, {}), Judged(none, judged().bench, {}))


PAPERS = [p for p in dag.papers(ROOT) if not p.startswith("foundations/")]


@pytest.mark.parametrize("paper", PAPERS)
def test_every_paper_can_be_decided_on_by_its_committed_scores(paper: str) -> None:
    """A paper's network held against itself: all that its settings name is there."""
    values = read_yaml(ROOT / "params.yaml")
    settings = load(ROOT, paper, values)
    place = ROOT / "reports/papers" / paper
    # The larger tables are compressed.
    tables = {n: next((place / n).glob("scores.csv*")) for n in ("evaluate", "bench")}
    kept = {n: pd.read_csv(p, keep_default_na=False) for n, p in tables.items()}
    same = Judged(kept["evaluate"], kept["bench"], {})
    decision = decide(settings, same, same)
    assert decision.outcome == "promoted"
    assert len(decision.findings) == len(settings.quality) + len(settings.cost) + 1


def test_the_data_of_a_day_are_asked_for_where_the_settings_say() -> None:
    from datetime import date

    values: dict[str, Any] = {"p": {"prepare": {"until": None, "rows": 3}}, "q": 1}
    settings = SETTINGS.model_copy(update={"now": {"p.prepare.until": "today"}})
    made = with_data_of(values, settings, date(2026, 11, 23))
    assert made == {"p": {"prepare": {"until": "2026-11-23", "rows": 3}}, "q": 1}
    assert values["p"]["prepare"]["until"] is None


def test_a_star_stands_for_every_name() -> None:
    from datetime import date

    values = {"p": {"a": {"until": None}, "b": {"until": "x"}, "c": {"rows": 3}}}
    settings = SETTINGS.model_copy(update={"now": {"p.*.until": "today"}})
    made = with_data_of(values, settings, date(2026, 11, 23))
    day = {"until": "2026-11-23"}
    assert made == {"p": {"a": day, "b": day, "c": {"rows": 3}}}


def test_one_condition_may_be_what_counts() -> None:
    """Elsewhere the challenger is as good as ever: an average would hide what it lost."""
    worse = judged()
    hard = worse.evaluate["condition"] == "hard"
    worse.evaluate.loc[hard & (worse.evaluate["metric"] == "error"), "value"] *= 1.06
    assert decide(SETTINGS, judged(), worse).outcome == "promoted"
    own = SETTINGS.quality[0].model_copy(update={"condition": "hard"})
    strict = SETTINGS.model_copy(update={"quality": [own]})
    assert decide(strict, judged(), worse).outcome == "refused"
    own = own.model_copy(update={"condition": "odd"})
    with pytest.raises(UserError, match="no condition 'odd'; there: easy, hard"):
        decide(SETTINGS.model_copy(update={"quality": [own]}), judged(), worse)


def test_what_cannot_be_compared_is_told() -> None:
    other = judged()
    fewer = other.evaluate[other.evaluate["seed"] < 2].assign(seed=lambda t: t["seed"] + 7)
    with pytest.raises(UserError, match="no pair among them"):
        decide(SETTINGS, judged(), Judged(fewer, other.bench, {}))
    assert other.bench is not None
    easy = other.bench[other.bench["condition"] == "easy"]
    with pytest.raises(UserError, match="'latency_ms' of both in other places"):
        decide(SETTINGS, judged(), Judged(other.evaluate, easy, {}))


def test_settings_that_are_wrong_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pipelines/p").mkdir(parents=True)
    dvc = "stages:\n  cut:\n    matrix: {variant: [small]}\n    cmd: x\n    deps: []\n"
    (tmp_path / "pipelines/p/dvc.yaml").write_text(dvc)
    with pytest.raises(UserError, match=r"p/retrain\.yaml is missing"):
        load(tmp_path, "p", {})
    with pytest.raises(UserError, match="unknown paper 'q'"):
        load(tmp_path, "q", {})
    path = tmp_path / "pipelines/p/retrain.yaml"
    path.write_text("variant: small\nquality: []\ncost: []\nnow: {p.until: tomorrow}\nodd: 1\n")
    with pytest.raises(UserError, match=r"(?s)quality: .*now\.p\.until: .*odd: ") as caught:
        load(tmp_path, "p", {})
    assert "p/retrain.yaml" in str(caught.value)
    good = "{metric: m, condition: null, aggregate: mean, compare: ratio, margin: 0.1}"
    good = f"quality: [{good}]\ncost: []\n"
    path.write_text(f"variant: huge\n{good}now: {{}}\n")
    with pytest.raises(UserError, match="variant 'huge' is made by no stage of p"):
        load(tmp_path, "p", {})
    path.write_text(f"variant: small\n{good}now: {{p.since: today}}\n")
    with pytest.raises(UserError, match=r"now: the parameters have no p\.since"):
        load(tmp_path, "p", {"p": {"until": None}})
