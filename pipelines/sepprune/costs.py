"""How the separators' costs are shown: a table of the pruned layers, a picture of all parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.sepprune.names import NETS
from stages.core.files import write_text
from stages.core.pictures import Theme, add_exhibit, save

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

MEASURES = {"macs": "MACs", "parameters": "parameters", "activation_bytes": "activations"}
DENSE = "separation module: 1x1 convolutions"
PARTS = (
    DENSE,
    "separation module: depth-wise convolutions",
    "separation module: attention",
    "separation module: norms, activations",
    "encoder, bottleneck",
    "masks, decoder",
)
KINDS = {"1x1 conv": PARTS[0], "depth-wise conv": PARTS[1], "attention": PARTS[2]}


def part_of(module: str, kind: str) -> str:
    """Says to which of `PARTS` a module belongs."""
    if module.startswith("sm."):
        return KINDS.get(kind, PARTS[3])
    return PARTS[5] if module.startswith(("mask_net", "decoder")) else PARTS[4]


def parts(table: pandas.DataFrame) -> pandas.DataFrame:
    """Sums what `structure` says of one network over `PARTS`.

    Returns:
        Index: the parts; columns: the keys of `MEASURES`, as shares of the whole network.
    """
    names = [part_of(m, k) for m, k in zip(table["module"], table["kind"], strict=True)]
    summed = table.assign(part=names).groupby("part")[list(MEASURES)].sum()
    summed = summed.reindex(list(PARTS), fill_value=0)
    return summed / summed.sum()


def show(
    out: Path,
    tables: Mapping[str, pandas.DataFrame],
    targets: Mapping[str, Mapping[str, Any]],
    rule: str,
) -> None:
    """Writes the exhibits: what is pruned and why, and the shares of all parts.

    Args:
        out: The stage's folder.
        tables: `structure` per network.
        targets: What calibrate chose per network.
        rule: How it chose, in words.
    """
    import pandas

    chosen = pandas.DataFrame(
        [
            {
                "network": NETS.get(backbone, backbone),
                "channels made by": candidate["producer"],
                "channels": candidate["channels"],
                "parameters per channel": candidate["parameters_per_channel"],
                "MACs that go with it": f"{candidate['macs_share']:.1%}",
                "pruned": "yes" if candidate["chosen"] else "no",
                "why": candidate["reason"],
            }
            for backbone, target in targets.items()
            for candidate in target["candidates"]
        ]
    )
    write_text(out / "pruned_layers.csv", chosen.to_csv(index=False))
    kept = "; ".join(
        f"{NETS.get(name, name)} keeps {target['keep_share']:.0%} of what can be cut, and so "
        f"{(target['fixed_parameters'] + target['budget']) / target['dense_parameters']:.0%} of "
        "its parameters"
        for name, target in targets.items()
    )
    add_exhibit(
        out,
        kind="table",
        name="pruned-layers",
        file="pruned_layers.csv",
        title="Which channels are pruned, and why",
        caption=f"{rule} Budget: {kept}.",
    )
    shares = {name: parts(table) for name, table in tables.items()}
    found = "; ".join(
        f"{NETS.get(name, name)}: {share.loc[DENSE, 'macs']:.0%} of the MACs, "
        f"{share.loc[DENSE, 'parameters']:.0%} of the parameters, "
        f"{share.loc[DENSE, 'activation_bytes']:.0%} of the activations"
        for name, share in shares.items()
    )
    save(
        out,
        "structure",
        lambda theme: draw(shares, theme),
        title="Where the separators spend arithmetic, parameters and memory",
        caption="Shares of each dense network for one second of audio. A block that is used many "
        "times counts its MACs and activations as often, its parameters once.",
        alt=f"Share of the separation module's 1x1 convolutions. {found}.",
    )


def draw(shares: Mapping[str, pandas.DataFrame], theme: Theme) -> Figure:
    """Draws one stacked bar per network and measure."""
    figure, axes = theme.axes(7.2, 0.9 + 1.15 * len(shares), xlabel="share of the network")
    ticks: list[str] = []
    there = [part for part in PARTS if any(share.loc[part].any() for share in shares.values())]
    for backbone, share in shares.items():
        for measure, name in MEASURES.items():
            row, left = len(ticks), 0.0
            ticks.append(f"{NETS.get(backbone, backbone)}, {name}")
            for index, part in enumerate(there):
                width = float(share.loc[part, measure])
                axes.barh(
                    row,
                    width,
                    left=left,
                    color=theme.cycle[index],
                    edgecolor=theme.panel,
                    label=part if row == 0 else None,
                )
                if width >= 0.08:
                    axes.text(
                        left + width / 2,
                        row,
                        f"{width:.0%}",
                        ha="center",
                        va="center",
                        color=theme.panel,
                        fontsize=8,
                    )
                left += width
    axes.set_yticks(range(len(ticks)), ticks)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
