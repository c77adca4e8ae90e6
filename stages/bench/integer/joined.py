"""What integer execution takes, on one table: our network whole, published ones by a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from stages.bench.integer.cases import BY_NAME, CLIP, whole
from stages.bench.integer.exhibits import size
from stages.bench.integer.graphs import FULL, RUNS, Timed, speedup
from stages.bench.integer.results import Bits, Results

EMPTY = "–"


def rows(found: Results) -> list[dict[str, Any]]:
    """A row a graph of our network, and a graph of a slice of a published clip."""
    made = [_row(found, own, found.models, "the network, one step") for own in found.models]
    for own in found.blocks:
        if own.graph.condition == CLIP:
            of = whole(BY_NAME[own.graph.backbone]).count
            part = f"a block, {own.graph.shape[1]} of {of} tokens"
            made.append(_row(found, own, found.blocks, part))
    return made


def _row(found: Results, own: Timed, among: Sequence[Timed], what: str) -> dict[str, Any]:
    graph = own.graph
    net, plain = BY_NAME.get(graph.backbone), graph.kernel == "full"
    arm = "full precision" if plain else found.labels.get(graph.arm, graph.arm)
    return {
        "net": net.name if net else graph.backbone,
        "arm": arm,
        "bits": graph.bits or "32",
        "runs as": graph.runs_as or "32",
        "kernel": RUNS[graph.kernel],
        **dict(_stored(found, own)),
        "measured": what,
        "its graph's file": size(1e6 * graph.size_mb),
        "peak memory, MB": f"{own.peak_mb:.1f}",
        "ms": f"{own.latency.median:.4g}",
        "times as fast as float32": f"{speedup(own, among):.3g}",
    }


def _stored(found: Results, own: Timed) -> Iterator[tuple[str, str]]:
    """Of the whole network, whatever part of it was timed."""
    graph, plain = own.graph, own.graph.kernel == "full"
    of_net = [each for each in found.bits if each.backbone == graph.backbone]
    it = next((e for e in of_net if (e.variant, e.bits) == (graph.arm, graph.bits)), None)
    it = of_net[0] if plain and of_net else it
    yield (
        "true bits a number",
        EMPTY if it is None else f"{32 if plain else it.stored.per_value:.4g}",
    )
    yield "whole network", EMPTY if it is None else size(_bytes(it, plain))
    smaller = None if it is None else 0.5 if plain else it.stored.compression(16)
    yield "times smaller than 16 bits", EMPTY if smaller is None else f"{smaller:.4g}"
    file = it.file_mb if it and not plain else None
    for each in found.plain if plain else ():
        file = each.files_mb[FULL] if each.backbone == graph.backbone else file
    yield "its file", EMPTY if file is None else size(1e6 * file)


def _bytes(it: Bits, plain: bool) -> float:
    return 4 * it.stored.values if plain else it.stored.ledger.total / 8
