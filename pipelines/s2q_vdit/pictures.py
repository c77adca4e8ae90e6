"""What the paper's page shows of the calibration data and of the blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.pictures import save

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from stages.core.pictures import Theme

LINES = {
    "diff": "movement of the step",
    "quant": "Hessian salience",
    "centred": "the same without the mean token",
    "product": "their product",
    "chosen": "share of members chosen",
}


def salience(
    out: Path, table: pandas.DataFrame, prompts: int, told: Sequence[Mapping[str, Any]]
) -> None:
    """Draw both measures over the denoising steps into a stage's folder.

    Args:
        table: of `calibrate.salience`.
        prompts: candidates in each pool.
        told: `calibrate.described` of every pool.
    """

    def draw(theme: Theme) -> Figure:
        figure, axes = theme.axes(6.4, 3.6, xlabel="denoising step", ylabel="scaled to 0 … 1")
        for place, (column, label) in enumerate(LINES.items()):
            axes.plot(table["step"], table[column], **theme.style(place), label=label)
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    most = table.iloc[int(table["chosen"].argmax())]
    steps = sorted({step for pool in told for step in pool["chosen"]})
    chosen = sum(sum(pool["chosen"].values()) for pool in told)
    neighbours = sum(pool["neighbours"] for pool in told)
    both = [pool["correlation"] for pool in told]
    alone = [pool["centred"]["correlation"] for pool in told]
    save(
        out,
        "salience",
        draw,
        title="Salience of the candidate samples",
        caption="How far the sampler moves in a step, how large the second moment of the network's "
        f"input is, and their product: means over {prompts} prompts a pool and all seeds, each "
        "measure scaled to 0 … 1 over its pool. Step 1 starts from pure noise. Chosen members are "
        f"of steps {steps[0]} to {steps[-1]} of {len(table)}, and of {neighbours / chosen:.0%} of "
        "them the next step is chosen too. Movement and Hessian salience correlate by "
        f"{min(both):.2f} to {max(both):.2f} in a pool; without the tokens' mean it would be "
        f"{min(alone):.2f} to {max(alone):.2f}.",
        alt=f"Step {int(most['step'])} of {len(table)} is chosen most often: from "
        f"{most['chosen']:.0%} of its prompts.",
    )
