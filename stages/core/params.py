"""Parameters: params.yaml holds every value once; a stage declares their types, closed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from stages.core.errors import UserError


class Params(BaseModel):
    """Base of every stage's parameters: no unknown key, no silent conversion, no change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


@dataclass(frozen=True)
class Borrowed:
    """Marks a field whose value lives in another section of params.yaml.

    `path` is relative to the paper's section ("prune.variants") or starts with "common.".
    """

    path: str


class Common(Params):
    """The section `common`."""

    profile: Literal["smoke", "desk", "lab", "paper"]
    threads: int = Field(ge=1, le=256)
    device: Literal["auto", "cpu", "cuda"]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuses a key that stands twice: YAML would silently take the later one.

    libyaml's parser, where PyYAML has it, is ten times as fast.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise UserError(f"{key_node.start_mark.name}:{line}: the key '{key}' stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        UserError: the file is missing, is not YAML, or has a key twice.
    """
    try:
        with path.open() as file:
            return yaml.load(file, _Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise UserError(f"{path.name} is missing; run this from the project's root") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path.name} is not valid YAML: {error}") from None


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`base` with `overlay` laid over it.

    A mapping is merged key by key; a key that ends in '!' replaces the whole value, so that an
    overlay can also drop arms. A null removes the key.
    """
    merged = dict(base)
    for key, value in overlay.items():
        if key.endswith("!"):
            merged[key[:-1]] = value
        elif value is None and key in merged and isinstance(merged[key], dict):
            del merged[key]
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def lookup(values: Any, path: str, source: str = "params.yaml") -> Any:
    """The value at a dotted path of the file `source`.

    Raises:
        UserError: a part of the path is missing; the message names what is there.
    """
    walked: list[str] = []
    for part in path.split("."):
        if not isinstance(values, dict) or part not in values:
            there = ", ".join(map(str, values)) if isinstance(values, dict) else "no mapping"
            where = ".".join(walked) or "the top level"
            raise UserError(f"{source}: '{path}' is missing; {where} has: {there}")
        walked.append(part)
        values = values[part]
    return values


Model = TypeVar("Model", bound=Params)


def borrowed(model: type[Params]) -> dict[str, str]:
    """Field name -> path of every borrowed field of `model`."""
    return {
        name: mark.path
        for name, field in model.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Borrowed)
    }


def absolute(path: str, section: str) -> str:
    """The path of a section's key from the top of params.yaml ("": the top itself)."""
    return path if path.startswith("common.") or not section else f"{section}.{path}"


def tracked_keys(model: type[Params], section: str, stage: str, variant: str | None) -> list[str]:
    """The keys of params.yaml that the stage reads, as dvc.yaml's `params:` must list them."""
    lent = borrowed(model)
    keys = ["common.device", "common.threads"]
    keys += [absolute(path, section) for path in lent.values()]
    own = [name for name in model.model_fields if name not in lent]
    if variant is None:
        keys += [f"{section}.{stage}"] if own else []
    else:
        keys += [f"{section}.{stage}.{name}" for name in own if name != "variant"]
        keys.append(f"{section}.{stage}.variants.{variant}")
    return sorted(set(keys))


def build(
    model: type[Model],
    values: dict[str, Any],
    section: str,
    stage: str,
    variant: str | None = None,
    source: str = "params.yaml",
) -> Model:
    """Make a stage's parameters from params.yaml's `values`.

    Args:
        model: the stage's `Params`.
        values: the whole of params.yaml.
        section: the paper's section, "sepprune" or "foundations.video".
        stage: the key below it.
        variant: the arm; its entry of `variants` becomes the field `variant`.

    Raises:
        UserError: a key is unknown or missing, or a value has a wrong type or range. The message
            names file, key and what is allowed.
    """
    where = absolute(stage, section)
    lent = borrowed(model)
    own = [name for name in model.model_fields if name not in lent]
    data: dict[str, Any] = {}
    if own:
        found = lookup(values, where)
        if not isinstance(found, dict):
            raise UserError(f"{source}: '{where}' must be a mapping")
        data = dict(found)
    variants = data.pop("variants", None) if "variants" not in own else None
    data.pop("seeds", None) if "seeds" not in own else None
    if variant is not None:
        if not isinstance(variants, dict) or variant not in variants:
            allowed = ", ".join(variants or {})
            raise UserError(f"{source}: unknown variant '{variant}' of {where}; allowed: {allowed}")
        data["variant"] = variants[variant]
    elif "variant" in own:
        raise UserError(f"{where} needs --variant; allowed: {', '.join(variants or {})}")
    for name, path in lent.items():
        data[name] = lookup(values, absolute(path, section))
    try:
        return model.model_validate(data)
    except ValidationError as error:
        prefix = {name: absolute(path, section) for name, path in lent.items()}
        if variant is not None:
            prefix["variant"] = f"{where}.variants.{variant}"
        lines = [_explain(e, model, where, prefix, source) for e in error.errors()]
        raise UserError("\n".join(lines)) from None


def _explain(
    error: ErrorDetails, model: type[Params], where: str, prefix: dict[str, str], source: str
) -> str:
    loc = [str(part) for part in error["loc"]]
    head = prefix.get(loc[0]) if loc else None
    key = ".".join([head, *loc[1:]] if head else [where, *loc])
    if error["type"] == "extra_forbidden":
        allowed = _fields_at(model, loc[:-1])
        return f"{source}: unknown key '{key}'; allowed: {', '.join(allowed)}"
    if error["type"] == "missing":
        return f"{source}: the key '{key}' is missing"
    # A rule over several keys has the whole section as its input.
    got = "" if isinstance(error["input"], dict) else f" is {error['input']!r}"
    return f"{source}: '{key}'{got}: {error['msg']}"


def _fields_at(model: Any, loc: list[str]) -> list[str]:
    """Names of the fields of the model that sits at `loc` below `model`."""
    for part in loc:
        if get_origin(model) is not None:
            model = next((a for a in get_args(model)[::-1] if _is_model(a)), model)
        if _is_model(model) and part in model.model_fields:
            model = model.model_fields[part].annotation
    if not _is_model(model):
        model = next((a for a in get_args(model)[::-1] if _is_model(a)), model)
    return list(model.model_fields) if _is_model(model) else []


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)
