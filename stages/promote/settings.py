"""`pipelines/<paper>/retrain.yaml`: which network is in use, and what a new one must keep up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from stages.core import dag
from stages.core.errors import UserError
from stages.core.params import Params, merge, read_yaml
from stages.core.stats import How

Text = Annotated[str, Field(min_length=1)]
Margin = Annotated[float, Field(gt=0)]


class Quality(Params):
    """A score of `evaluate` in which the new network must not be worse.

    Attributes:
        condition: where it counts; null: every one, averaged.
        compare: the new network's against the old one's, cell by cell, then averaged.
        margin: how much worse is not worse: a share of a ratio, or in the metric's own unit.
    """

    metric: Text
    condition: Text | None
    aggregate: How
    compare: Literal["ratio", "difference"]
    margin: Margin


class Cost(Params):
    """A measure of `bench` that must not grow by more than the share `margin`."""

    metric: Text
    margin: Margin


class Settings(Params):
    """
    Attributes:
        variant: the arm that is kept in use.
        now: keys of params.yaml that say which data there are, `*` for any name, each with what
            asks for those of today.
    """

    variant: Text
    quality: Annotated[list[Quality], Field(min_length=1)]
    cost: list[Cost]
    now: dict[Text, Literal["today"]]


def load(root: Path, paper: str, values: dict[str, Any]) -> Settings:
    """Read and check a paper's settings.

    Args:
        values: the parameters of the profile that is to run.

    Raises:
        UserError: there are none, they break the schema, or name what is not in the parameters.
    """
    path = root / "pipelines" / paper / "retrain.yaml"
    shown = path.relative_to(root)
    if not path.is_file():
        dag.pipeline(root, paper)  # tells an unknown paper from one that is not retrained
        raise UserError(f"{shown} is missing: it says what a retrained {paper} must keep up")
    try:
        found = Settings.model_validate(read_yaml(path))
    except ValidationError as error:
        told = [f"{shown}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise UserError("\n".join(told)) from None
    for key in found.now:
        if not list(_matching(values, key.split("."))):
            raise UserError(f"{shown}: now: the parameters have no {key}")
    if not made_by(root, paper, found.variant, values):
        raise UserError(f"{shown}: variant '{found.variant}' is made by no stage of {paper}")
    return found


def made_by(root: Path, paper: str, variant: str, values: dict[str, Any]) -> list[dag.Node]:
    """The stages whose outputs are the networks of a variant: the last kind that has variants."""
    found = [node for node in dag.nodes(root, paper, values) if node.variant == variant]
    return [node for node in found if node.stage == found[-1].stage]


def with_data_of(values: dict[str, Any], settings: Settings, day: date) -> dict[str, Any]:
    """`values` that ask for the data of `day`."""
    made = values
    for key in settings.now:
        for parts in _matching(values, key.split(".")):
            new: Any = day.isoformat()
            for part in reversed(parts):
                new = {part: new}
            made = merge(made, new)
    return made


def _matching(values: Any, parts: list[str]) -> Iterator[list[str]]:
    """The keys that a pattern names."""
    if not parts:
        yield []
    elif isinstance(values, dict):
        for key in values if parts[0] == "*" else {parts[0]} & values.keys():
            yield from ([key, *below] for below in _matching(values[key], parts[1:]))
