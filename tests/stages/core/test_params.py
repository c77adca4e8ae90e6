"""Wrong parameters give one clear message that names file, key and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from stages.core.errors import UserError
from stages.core.params import Borrowed, Params, build, merge, read_yaml, tracked_keys


class Inner(Params):
    kind: Literal["a", "b"]
    size: int = Field(ge=1)


class Plain(Params):
    inner: Inner
    rate: float


class Armed(Params):
    steps: int
    variant: Inner
    profile: Annotated[str, Borrowed("common.profile")]
    rate: Annotated[float, Borrowed("plain.rate")]


VALUES = {
    "common": {"profile": "desk"},
    "paper": {
        "plain": {"inner": {"kind": "a", "size": 2}, "rate": 0.5},
        "armed": {
            "steps": 3,
            "seeds": ["0-2"],
            "variants": {"one": {"kind": "a", "size": 1}, "two": {"kind": "b", "size": 2}},
        },
    },
}


def changed(path: str, value: object) -> dict:
    top = merge({}, VALUES)
    *parts, last = path.split(".")
    here = top
    for part in parts:
        here[part] = dict(here[part])
        here = here[part]
    here[last] = value
    return top


def test_a_section_becomes_typed_parameters() -> None:
    made = build(Plain, VALUES, "paper", "plain")
    assert made.inner.size == 2 and made.rate == 0.5


def test_a_variant_is_filled_in_and_keys_are_borrowed() -> None:
    made = build(Armed, VALUES, "paper", "armed", "two")
    assert (made.variant.kind, made.profile, made.rate) == ("b", "desk", 0.5)


def test_the_keys_a_variant_reads_name_no_other_variant() -> None:
    assert tracked_keys(Armed, "paper", "armed", "two") == [
        "common.device",
        "common.profile",
        "common.threads",
        "paper.armed.steps",
        "paper.armed.variants.two",
        "paper.plain.rate",
    ]


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("paper.plain.speed", 1, ["params.yaml", "paper.plain.speed", "unknown", "inner, rate"]),
        ("paper.plain.inner.knd", 1, ["paper.plain.inner.knd", "unknown", "kind, size"]),
        ("paper.plain.inner.kind", "c", ["paper.plain.inner.kind", "'c'", "'a' or 'b'"]),
        ("paper.plain.inner.size", 0, ["paper.plain.inner.size", "greater than or equal to 1"]),
        ("paper.plain.inner.size", "2", ["paper.plain.inner.size", "'2'", "integer"]),
        ("paper.plain.inner", 3, ["paper.plain.inner"]),
    ],
)
def test_a_wrong_value_is_named(path: str, value: object, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build(Plain, changed(path, value), "paper", "plain")
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_key_is_named() -> None:
    values = {"paper": {"plain": {"rate": 1.0}}}
    with pytest.raises(UserError, match=r"'paper\.plain\.inner' is missing"):
        build(Plain, values, "paper", "plain")


def test_a_wrong_key_inside_a_variant_is_named_with_its_path() -> None:
    values = changed("paper.armed.variants.one", {"kind": "a", "size": 1, "sise": 2})
    with pytest.raises(UserError, match=r"paper\.armed\.variants\.one\.sise.*kind, size"):
        build(Armed, values, "paper", "armed", "one")


def test_an_unknown_variant_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown variant 'three'.*one, two"):
        build(Armed, VALUES, "paper", "armed", "three")
    with pytest.raises(UserError, match=r"needs --variant; allowed: one, two"):
        build(Armed, VALUES, "paper", "armed")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: 1\nb:\n  c: 1\n  c: 2\n")
    with pytest.raises(UserError, match=r":4: the key 'c' stands twice"):
        read_yaml(path)


def test_broken_yaml_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: [1\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(path)


def test_overlays_merge_replace_and_drop() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": {"p": 1}, "c": {"k": 1}}
    overlay = {"a": {"x": 5}, "b!": {"q": 2}, "c": None}
    assert merge(base, overlay) == {"a": {"x": 5, "y": 2}, "b": {"q": 2}}
    assert base["a"]["x"] == 1
