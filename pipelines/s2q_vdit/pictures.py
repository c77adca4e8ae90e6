"""What the paper's page shows of the calibration data and of the blocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.pictures import save

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from stages.core.pictures import Theme

LINES = {
    "diff": "movement of the step",
    "quant": "Hessian salience",
    "product": "their product",
    "chosen": "share of members chosen",
}


def salience(out: Path, table: pandas.DataFrame, prompts: int) -> None:
    """Draw both measures over the denoising steps into a stage's folder.

    Args:
        table: of `calibrate.salience`.
        prompts: candidates in each pool.
    """

    def draw(theme: Theme) -> Figure:
        figure, axes = theme.axes(6.4, 3.6, xlabel="denoising step", ylabel="scaled to 0 … 1")
        for place, (column, label) in enumerate(LINES.items()):
            axes.plot(table["step"], table[column], **theme.style(place), label=label)
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    most = table.iloc[int(table["chosen"].argmax())]
    save(
        out,
        "salience",
        draw,
        title="Salience of the candidate samples",
        caption="How far the sampler moves in a step, how large the second moment of the network's "
        f"input is, and their product: means over {prompts} prompts a pool and all seeds, each "
        "measure scaled to 0 … 1 over its pool. Step 1 starts from pure noise.",
        alt=f"Step {int(most['step'])} of {len(table)} is chosen most often: from "
        f"{most['chosen']:.0%} of its prompts.",
    )
