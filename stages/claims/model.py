"""The schema of claims.yaml: what a paper claims, and how each claim is measured here.

Everything that decides a verdict (rule, tolerance, margin, aggregation) stands in the file and is
committed before the first run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from stages.core.errors import UserError
from stages.core.params import Params, read_yaml
from stages.core.stats import NEUTRAL, How, Kind

Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(ge=0)]
UNITS = {"ratio": "×", "speedup": "×", "share": "%", "saving": "%"}
"""Unit of a comparison; the others have the unit of their metric."""


class Closed(Params):
    """A part of claims.yaml: no unknown key, no silent conversion."""


class Published(Closed):
    """The number that the paper prints; `value` is null where it prints none."""

    value: float | None
    unit: Text
    note: str = ""


class Needs(Closed):
    """The profile whose data a claim needs; "none": no profile has it."""

    profile: Literal["smoke", "desk", "lab", "paper", "none"]
    reason: Text


class Measure(Closed):
    """The quantity, made from the long table of scores.

    Attributes:
        table: the stage whose scores are read.
        dataset: one, or several of which the first that the scores have is read.
        items: "shared": every seed and arm is scored on the same test items; "repeats": rounds of
            a measurement, in which the arms took turns; "counted": an exact count, without an
            error of its own.
        also: other comparisons of the same scores, shown beside the verdict.
    """

    table: Literal["evaluate", "bench"]
    metric: Text
    variant: Text
    baseline: Text | None = None
    backbone: Text | None = None
    dataset: Text | list[Text] | None = None
    condition: Text | None = None
    aggregate: How
    compare: Kind
    items: Literal["shared", "repeats", "counted"]
    also: Annotated[list[Kind], Field(default_factory=list)]


class Cell(Closed):
    """One of the places where a claim is measured; its keys take the place of the quantity's.

    `published` left out: the claim's own number; null: the paper prints none for this cell.
    """

    variant: Text | None = None
    baseline: Text | None = None
    backbone: Text | None = None
    dataset: Text | None = None
    condition: Text | None = None
    published: float | None = None
    needs: Needs | None = None


class Cells(Closed):
    """The cells and how they make one verdict: all, the best, over half, or their mean."""

    combine: Literal["each", "any", "most", "mean"]
    of: Annotated[list[Cell], Field(min_length=1)]


class BetterThan(Closed):
    """Better than the baseline, or than the number `than`, in the metric's own direction."""

    kind: Literal["better_than"]
    than: float | None = None


class AtLeast(Closed):
    kind: Literal["at_least"]
    bound: float


class AtMost(Closed):
    kind: Literal["at_most"]
    bound: float


class NonInferior(Closed):
    """Not worse than the baseline by more than `margin`, in the metric's unit."""

    kind: Literal["non_inferior"]
    margin: Annotated[float, Field(gt=0)]
    reason: Text


class Equivalent(Closed):
    """Alike within `margin` to either side, in the metric's unit: two one-sided tests, each at
    2.5 %, since the interval is that of 95 %."""

    kind: Literal["equivalent"]
    margin: Annotated[float, Field(gt=0)]
    reason: Text


class Exact(Closed):
    """The published number itself, within the tolerance."""

    kind: Literal["exact"]


class Check(Closed):
    """A number that we set ourselves: it is checked, and never "holds"."""

    kind: Literal["check"]
    must_be: Literal["at_least", "at_most", "equal"]
    bound: float


Rule = Annotated[
    BetterThan | AtLeast | AtMost | NonInferior | Equivalent | Exact | Check,
    Field(discriminator="kind"),
]


class Tolerance(Closed):
    """How far from the published number still counts as reaching it.

    `absolute` is in the unit of the comparison. `relative` is a fraction: for better_than of the
    published effect (its distance from "alike"), else of the number itself.
    """

    absolute: Positive | None = None
    relative: Positive | None = None
    reason: Text

    @model_validator(mode="after")
    def _one(self) -> Tolerance:
        if (self.absolute is None) == (self.relative is None):
            raise ValueError("give either 'absolute' or 'relative'")
        return self

    def width(self, size: float) -> float:
        """The tolerance in the unit of the comparison, for a published effect of this size."""
        return self.absolute if self.absolute is not None else (self.relative or 0.0) * abs(size)


class Claim(Closed):
    """One claim of a paper.

    Attributes:
        claim: what is claimed, in our own words.
        where: where it stands (abstract, table).
        measure, cells: the measured quantity and its cells.
        differs: what differs from the paper here (data, size, steps).
        given_one_teacher: the interval does not cover the choice of the full-size network.
        needs: for the whole claim; a cell may have its own.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    claim: Text
    where: Text
    published: Published
    measure: Measure
    cells: Cells | None = None
    rule: Rule
    tolerance: Tolerance | None = None
    differs: Text
    given_one_teacher: bool
    needs: Needs | None = None

    def places(self) -> list[Cell]:
        """The cells, or the one that the quantity itself makes."""
        return self.cells.of if self.cells else [Cell()]

    def at(self, cell: Cell) -> Measure:
        """The quantity in one cell."""
        own = cell.model_dump(exclude={"published", "needs"}, exclude_none=True)
        return self.measure.model_copy(update=own)

    def printed(self, cell: Cell) -> float | None:
        """The published number for one cell."""
        return cell.published if "published" in cell.model_fields_set else self.published.value

    @model_validator(mode="after")
    def _fits(self) -> Claim:
        kind, rule = self.measure.compare, self.rule
        for cell in self.places():
            if (self.at(cell).baseline is None) != (kind == "value"):
                takes = "takes no" if kind == "value" else "needs a"
                raise ValueError(f"compare '{kind}' {takes} baseline")
        if kind == "value" and self.measure.also:
            raise ValueError("'also' needs a baseline")
        if self.published.unit != UNITS.get(kind, self.published.unit):
            raise ValueError(f"compare '{kind}' is in {UNITS[kind]}, not {self.published.unit}")
        if isinstance(rule, NonInferior | Equivalent) and kind != "difference":
            raise ValueError(f"{rule.kind} compares a difference")
        if isinstance(rule, BetterThan) and rule.than is None and kind not in NEUTRAL:
            raise ValueError("better_than of a value needs 'than'")
        numbers = [self.printed(cell) for cell in self.places()]
        if isinstance(rule, Exact) and None in numbers:
            raise ValueError("exact needs a published value")
        sized = isinstance(rule, BetterThan) and numbers != [None] * len(numbers)
        equal = isinstance(rule, Check) and rule.must_be == "equal"
        needed = sized or equal or isinstance(rule, AtLeast | AtMost | Exact)
        if needed != (self.tolerance is not None):
            raise ValueError(f"this rule {'needs a' if needed else 'has no use for a'} tolerance")
        if self.cells and self.cells.combine == "mean" and isinstance(rule, Check):
            raise ValueError("a check is made in each cell, not on their mean")
        return self


class Sheet(Closed):
    """A whole claims.yaml."""

    paper: Text
    claims: Annotated[list[Claim], Field(min_length=1)]

    @model_validator(mode="after")
    def _unique(self) -> Sheet:
        ids = [claim.id for claim in self.claims]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"these ids stand twice: {', '.join(twice)}")
        return self


def load(path: Path) -> Sheet:
    """Read and check a claims.yaml.

    Raises:
        UserError: the file is missing or breaks the schema; the message names claim and key.
    """
    data = read_yaml(path)
    try:
        return Sheet.model_validate(data)
    except ValidationError as error:
        lines = [_explain(path, data, e["loc"], e["msg"]) for e in error.errors()]
        raise UserError("\n".join(lines)) from None


def _explain(path: Path, data: Any, loc: tuple[int | str, ...], message: str) -> str:
    where = f"{path.parent.name}/{path.name}"
    if len(loc) > 1 and loc[0] == "claims" and isinstance(loc[1], int):
        entry = data["claims"][loc[1]]
        name = entry.get("id", f"number {loc[1] + 1}") if isinstance(entry, dict) else loc[1] + 1
        where, loc = f"{where}, claim '{name}'", loc[2:]
    key = ".".join(str(part) for part in loc)
    return f"{where}{f', {key}' if key else ''}: {message.removeprefix('Value error, ')}"


def is_timing(metric: str) -> bool:
    """Whether the metric is a time or a memory figure, which no two runs give alike."""
    timed = metric.endswith(("_ms", "_memory_mb")) or metric.startswith(
        ("step_", "update_", "teacher_forward")
    )
    return metric == "rtf" or timed
