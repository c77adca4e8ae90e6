"""What blocks of a model are given and what they give, kept from a run.

A teacher is run once over the calibration data; reconstruction then asks for its activations as
often as it likes. Everything a block is called with is kept: a text mask or a time embedding that
comes by keyword belongs to a sample as much as the tokens do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stages.core.errors import UserError

ROOT = ""
"""The name of the model itself among its modules."""

Place = str | int
"""An argument: by its name where it came by keyword, else by its position."""


@dataclass(frozen=True)
class Given:
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def call(self, block: Callable[..., Any]) -> Any:
        return block(*self.args, **self.kwargs)


@dataclass
class Records:
    """One block's calls, by sample, in the order of the run.

    Attributes:
        inputs: what the block was given.
        outputs: what it gave: a tensor, or tuples, lists and dicts of tensors.
        shared: arguments that are no sample's own, such as a table of rotary embeddings; any batch
            is given the first call's.
    """

    inputs: list[Given] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    shared: dict[Place, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.outputs)

    def batch(self, samples: Sequence[int], device: torch.device) -> tuple[Given, Any]:
        """Arguments and outputs of some samples, joined along the first axis, on `device`."""
        chosen = [self.inputs[i] for i in samples]

        def one(place: Place, values: list[Any]) -> Any:
            shared = place in self.shared
            value = self.shared[place] if shared else _joined(values, f"argument {place!r}")
            return _mapped(value, lambda t: t.to(device))

        given = Given(
            tuple(one(i, [c.args[i] for c in chosen]) for i in range(len(chosen[0].args))),
            {key: one(key, [c.kwargs[key] for c in chosen]) for key in chosen[0].kwargs},
        )
        output = _joined([self.outputs[i] for i in samples], "the output")
        return given, _mapped(output, lambda t: t.to(device))


@contextmanager
def capture(
    model: nn.Module,
    names: Sequence[str],
    *,
    shared: Collection[Place] = (),
    store: torch.device | None = None,
) -> Iterator[dict[str, Records]]:
    """Keep the calls of some modules while the model is run inside the context.

    A sample is a row of the first tensor that the model is called with. A block may fold further
    axes into its first one, as factorised attention does with frames, so long as samples come
    slowest: each then owns an equal share of the rows.

    Args:
        names: of the modules, as in `named_modules`; `ROOT` is the model itself.
        shared: see `Records`; an argument that is not there is no error.
        store: where to keep the tensors; where they are by default.

    Yields:
        name -> records, which grow with each run. The tensors are copies without gradients, so
        that a block that works in place cannot change them.

    Raises:
        UserError: a name is not in the model.
        ValueError: an argument's rows do not divide among the samples.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            near = get_close_matches(name, modules, n=3, cutoff=0.0)
            raise UserError(f"the model has no module '{name}'; the nearest names are {near}")
    recorder = _Recorder(frozenset(shared), store)
    handles = [model.register_forward_pre_hook(recorder.begin, with_kwargs=True)]
    found = {name: Records() for name in names}
    for name, records in found.items():
        handles += recorder.watch(modules[name], records)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watching(
    modules: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Within the context, see(name, x) is called with the first argument of every module's call.

    For statistics that need not keep the inputs: maxima, Hessians, static ranges.
    """

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, args: see(name, args[0].detach())

    handles = [m.register_forward_pre_hook(hook(name)) for name, m in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Recorder:
    """The hooks, and how many samples the call under way holds."""

    def __init__(self, shared: frozenset[Place], store: torch.device | None) -> None:
        self.shared, self.store, self.samples = shared, store, 0

    def begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.ndim)
        first = next(tensors, None)
        if first is None:
            raise ValueError("the model is called without a tensor; its samples cannot be told")
        self.samples = len(first)

    def watch(self, module: nn.Module, records: Records) -> list[RemovableHandle]:
        pending: list[list[Given]] = []  # arguments are copied before the block can change them

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            pending.append(self._by_sample(args, kwargs, records))

        def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            records.inputs += pending.pop()
            records.outputs += self._split(output, "the output")

        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        ]

    def _by_sample(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], records: Records
    ) -> list[Given]:
        columns: dict[Place, list[Any]] = {}
        given: dict[Place, Any] = dict(enumerate(args))
        given.update(kwargs)
        for place, value in given.items():
            if place in self.shared:
                if place not in records.shared:
                    records.shared[place] = _mapped(value, self._copy)
                columns[place] = [None] * self.samples
            else:
                columns[place] = self._split(value, f"argument {place!r}")
        return [
            Given(
                tuple(columns[i][k] for i in range(len(args))),
                {key: columns[key][k] for key in kwargs},
            )
            for k in range(self.samples)
        ]

    def _split(self, value: Any, what: str) -> list[Any]:
        """A value's share of every sample."""
        count = self.samples
        if isinstance(value, Tensor) and value.ndim:
            if len(value) % count:
                raise ValueError(
                    f"{what} has {len(value)} rows for {count} samples; "
                    "if it is the same for all samples, name it in 'shared'"
                )
            return [self._copy(part) for part in value.split(len(value) // count)]
        if isinstance(value, Tensor):
            return [self._copy(value)] * count
        if isinstance(value, Mapping):
            parts = {key: self._split(entry, what) for key, entry in value.items()}
            return [{key: part[k] for key, part in parts.items()} for k in range(count)]
        if isinstance(value, tuple | list):
            columns = [self._split(entry, what) for entry in value]
            return [type(value)(column[k] for column in columns) for k in range(count)]
        return [value] * count

    def _copy(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.store or tensor.device, copy=True)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(entry, change) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_mapped(entry, change) for entry in value)
    return value


def _joined(values: list[Any], what: str) -> Any:
    """Samples' values as one batch's."""
    first = values[0]
    if isinstance(first, Tensor) and first.ndim:
        return torch.cat(values)
    if isinstance(first, Mapping):
        return {key: _joined([v[key] for v in values], what) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(_joined(list(column), what) for column in zip(*values, strict=True))
    if any(value != first for value in values):
        raise ValueError(f"{what} differs between samples and has no axis to join them along")
    return first
