"""The decision: is the challenger as good as the champion, as small and fast, and are its claims?

Both are judged by the same stages, on the same data, seeds and test items, and measured one after
the other on one device; quality is compared in pairs, by the statistics that claims have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from stages.claims import measure
from stages.claims.model import Measure
from stages.claims.select import Missing, pair
from stages.core.errors import UserError
from stages.core.stats import Interval
from stages.promote.settings import Cost, Quality, Settings

if TYPE_CHECKING:
    import pandas

CHAMPION, CHALLENGER = "champion", "challenger"
BAD = ("fails", "check failed")


@dataclass(frozen=True)
class Finding:
    """One question and its answer.

    Attributes:
        what: a metric, or a claim.
        passed: whether it speaks for the challenger, or at least not against it.
        told: the answer in words.
        value, low, high: of the comparison, challenger against champion; None where there is none.
        bound: on which side of which the challenger must be.
    """

    kind: Literal["quality", "cost", "claim"]
    what: str
    passed: bool
    told: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Decision:
    """
    Attributes:
        outcome: "first" is a promotion that nothing was held against, "rolled back" a person's.
    """

    outcome: Literal["promoted", "refused", "first", "rolled back"]
    findings: tuple[Finding, ...]

    @property
    def promotes(self) -> bool:
        return self.outcome != "refused"

    def as_dict(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "findings": [asdict(f) for f in self.findings]}

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> Decision:
        """What `as_dict` gave."""
        return cls(made["outcome"], tuple(Finding(**own) for own in made["findings"]))


@dataclass(frozen=True)
class Judged:
    """What the stages found of one network.

    Attributes:
        evaluate, bench: tables of scores of all arms; bench is None where the paper has none.
        verdicts: claim -> verdict.
    """

    evaluate: pandas.DataFrame
    bench: pandas.DataFrame | None
    verdicts: Mapping[str, str]


def decide(settings: Settings, champion: Judged | None, challenger: Judged) -> Decision:
    """Hold the challenger against the champion.

    Raises:
        UserError: a score that the settings name is not there, or the two cannot be paired.
    """
    if champion is None:
        return Decision("first", ())
    findings = [
        *(_quality(own, settings.variant, champion, challenger) for own in settings.quality),
        *(_cost(own, settings.variant, champion, challenger) for own in settings.cost),
        *_flips(champion.verdicts, challenger.verdicts),
    ]
    passed = all(finding.passed for finding in findings)
    return Decision("promoted" if passed else "refused", tuple(findings))


def _quality(own: Quality, variant: str, champion: Judged, challenger: Judged) -> Finding:
    """Non-inferiority: the whole interval lies on the good side of the margin."""
    table = _beside(champion.evaluate, challenger.evaluate, variant, own.metric, "evaluate")
    if own.condition is not None:
        if own.condition not in set(table["condition"]):
            there = ", ".join(sorted(set(table["condition"])))
            raise UserError(f"retrain.yaml: no condition '{own.condition}'; there: {there}")
        table = table[table["condition"] == own.condition]
    cells, direction = [], ""
    asked = Measure(
        table="evaluate", metric=own.metric, variant=CHALLENGER, baseline=CHAMPION,
        aggregate=own.aggregate, compare=own.compare, items="shared", also=[],
    )  # fmt: skip
    for cell in _cells(table):
        try:
            found = pair(asked, {"evaluate": cell})
        except Missing as error:
            raise UserError(f"champion and challenger cannot be paired: {error}") from None
        direction = found.direction
        cells.append(measure.measure(found, own.aggregate, own.compare, "shared"))
    if direction not in ("lower", "higher"):
        raise UserError(f"retrain.yaml: of '{own.metric}' neither more nor less is better")
    if len({cell.count for cell in cells}) > 1:
        raise UserError(
            f"retrain.yaml: '{own.metric}' has other seeds in some conditions; name one"
        )
    got = measure.average(cells).interval
    neutral = 1.0 if own.compare == "ratio" else 0.0
    bound = neutral + (own.margin if direction == "lower" else -own.margin)
    passed = got.high <= bound if direction == "lower" else got.low >= bound
    told = _told(passed, got, bound, direction)
    return Finding("quality", own.metric, passed, told, got.value, got.low, got.high, bound)


def _told(passed: bool, got: Interval, bound: float, direction: str) -> str:
    if passed:
        return "not worse"
    worse = got.low > bound if direction == "lower" else got.high < bound
    return "worse" if worse else "not shown to be no worse"


def _cost(own: Cost, variant: str, champion: Judged, challenger: Judged) -> Finding:
    """The mean over networks and conditions of the ratio of medians.

    Both were measured one after the other, on one device; still no pair of runs took turns, so that
    the margin has to cover the noise of the machine.
    """
    if champion.bench is None or challenger.bench is None:
        raise UserError(f"retrain.yaml: '{own.metric}' is asked for, but the paper has no bench")
    table = _beside(champion.bench, challenger.bench, variant, own.metric, "bench")
    keys = ["backbone", "dataset", "condition"]
    medians = table.groupby(["variant", *keys])["value"].median()
    old, new = medians[CHAMPION], medians[CHALLENGER]
    if set(old.index) != set(new.index):
        raise UserError(f"bench has '{own.metric}' of both in other places; compare by hand")
    ratio = float((new / old).mean())
    bound = 1 + own.margin
    passed = ratio <= bound
    return Finding("cost", own.metric, passed, "not more" if passed else "more", ratio, bound=bound)


def _flips(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Finding]:
    """Claims that fail now and did not before; one finding that none does, where none does."""
    flipped = [name for name, verdict in now.items() if verdict in BAD]
    flipped = [name for name in flipped if before.get(name) not in BAD]
    for name in flipped:
        yield Finding("claim", name, False, f"{before.get(name, 'not there')}, now {now[name]}")
    if not flipped:
        yield Finding("claim", "all", True, "none fails that did not before")


def _beside(
    old: pandas.DataFrame, new: pandas.DataFrame, variant: str, metric: str, stage: str
) -> pandas.DataFrame:
    """One table in which the champion's and the challenger's networks are two arms.

    Raises:
        UserError: a table has no such rows.
    """
    import pandas

    parts = []
    for name, table in ((CHAMPION, old), (CHALLENGER, new)):
        rows = table[(table["variant"] == variant) & (table["metric"] == metric)]
        if rows.empty:
            there = sorted(set(table.loc[table["variant"] == variant, "metric"])) or ["nothing"]
            raise UserError(
                f"retrain.yaml: {stage} has no '{metric}' of '{variant}'; there: {', '.join(there)}"
            )
        parts.append(rows.assign(variant=name))
    return pandas.concat(parts, ignore_index=True)


def _cells(table: pandas.DataFrame) -> Iterator[pandas.DataFrame]:
    """The rows of each network, data set and condition; of those without condition, which stand
    for all conditions, where there are such."""
    for _, rows in table.groupby(["backbone", "dataset"]):
        whole = rows[rows["condition"] == ""]
        if len(whole):
            yield whole
        else:
            yield from (part for _, part in rows.groupby("condition"))
