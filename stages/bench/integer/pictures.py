"""The picture of a block's time against tokens, and its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.bench.integer.cases import BY_NAME, CLIP, whole
from stages.bench.integer.graphs import FULL, Timed, called, speedup
from stages.core.pictures import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stages.core.themes import Theme


FURTHER = (">", "h", "p", "*", "d", "8", "H", "1")
"""Markers from the ninth line on, whose colours begin anew."""


def latency(
    out: Path,
    timed: Sequence[Timed],
    machine: str,
    labels: Mapping[str, str],
    attention_gb: float,
) -> None:
    """The picture of a block's time against tokens.

    Args:
        attention_gb: that a block's scores may take.
        labels: what the arms are called.
    """
    save(
        out,
        "latency",
        against_tokens(timed, labels),
        title="A block's time against tokens",
        caption=f"Time of one block, by token, on {machine}. Filled: whole blocks. Hollow, at the "
        f"far right: a slice of the published clip, {slices(timed, attention_gb)} Dashes, dotted "
        "together: the least that the machine's best rates allow; weights that stay in the caches "
        "are read faster than that.",
        alt=finding(timed, labels),
    )


def slices(timed: Sequence[Timed], attention_gb: float) -> str:
    """What slices are, and what the attention of whole clips would take."""
    done = {(t.graph.backbone, t.graph.condition) for t in timed}
    cut = [whole(BY_NAME[name]) for name, condition in sorted(done) if condition == CLIP]
    left = [case for case in cut if (case.backbone, case.condition) not in done]
    parts = []
    for fits, told in ((False, "does not fit into"), (True, "would fit into")):
        cases = [case for case in left if (case.attention_gb <= attention_gb) == fits]
        taken = ", ".join(f"{case.net.name}: {case.attention_gb:.2g} GB" for case in cases)
        end = ", and was left out for its time" if fits else ""
        if cases:
            parts.append(f"; a whole one's attention {told} {attention_gb:g} GB ({taken}){end}")
    return f"some tokens that attend to all that they would in it{''.join(parts)}."


def against_tokens(timed: Sequence[Timed], labels: Mapping[str, str]) -> Callable[[Theme], Figure]:
    """A panel a network, a line a variant."""
    backbones = list(dict.fromkeys(own.graph.backbone for own in timed))
    variants = {own.graph.variant: called(own.graph, labels) for own in timed}

    def draw(theme: Theme) -> Figure:
        from matplotlib.ticker import LogLocator

        figure = theme.figure(6.4, 3.8)
        panels = figure.subplots(1, len(backbones), sharex=True, sharey=True, squeeze=False)[0]
        handles: dict[str, Any] = {}
        for axes, backbone in zip(panels, backbones, strict=True):
            for number, variant in enumerate(variants):
                own = [
                    t for t in timed if (t.graph.backbone, t.graph.variant) == (backbone, variant)
                ]
                style = theme.style(number)
                if number >= len(theme.cycle):
                    style["marker"] = FURTHER[number % len(theme.cycle)]
                for clip in (False, True):
                    chosen = [t for t in own if (t.graph.condition == CLIP) == clip]
                    chosen.sort(key=_tokens)
                    x = [_tokens(t) for t in chosen]
                    y = [t.latency.median / _run(t) for t in chosen]
                    shown = {**style, "linestyle": "none" if clip else style["linestyle"]}
                    face = {"markerfacecolor": "none"} if clip else {}
                    (line,) = axes.plot(x, y, markersize=5, **shown, **face)
                    handles.setdefault(variants[variant], line)
                    least = [(t.graph.least_ms or 0) / _run(t) for t in chosen]
                    axes.plot(
                        x, least, color=style["color"], linestyle=":", linewidth=1, marker="_"
                    )
            axes.set_title(BY_NAME[backbone].name)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("tokens")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        panels[0].set_ylabel("ms by token")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
        return figure

    return draw


def _run(own: Timed) -> int:
    """Tokens that go through the layers in a run."""
    frames, tokens, _ = own.graph.shape
    return frames * tokens


def _tokens(own: Timed) -> int:
    """Tokens of the whole input, which a slice is a part of."""
    return whole(BY_NAME[own.graph.backbone]).count if own.graph.condition == CLIP else _run(own)


def finding(timed: Sequence[Timed], labels: Mapping[str, str]) -> str:
    """The picture in words: speed against float32 at the least and the most tokens."""
    parts = []
    for backbone in dict.fromkeys(own.graph.backbone for own in timed):
        own = sorted((t for t in timed if t.graph.backbone == backbone), key=_tokens)
        for place in dict.fromkeys((own[0].graph.condition, own[-1].graph.condition)):
            speeds = ", ".join(
                f"{called(t.graph, labels)} {speedup(t, timed):.2f}"
                for t in own
                if t.graph.condition == place and t.graph.variant != FULL
            )
            count = next(_tokens(t) for t in own if t.graph.condition == place)
            parts.append(f"{BY_NAME[backbone].name} at {count} tokens: {speeds}")
    return "Times as fast as float32. " + "; ".join(parts) + "."
