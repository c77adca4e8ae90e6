"""What a bench of quantized networks writes down: bench.json, scores, summary, tables, picture."""

from __future__ import annotations

from pathlib import Path

from stages.bench.integer import exhibits, joined, pictures, scores
from stages.bench.integer.graphs import bench_rows
from stages.bench.integer.results import Results
from stages.core.files import write_json
from stages.core.results import write_metrics, write_scores


def write(found: Results, out: Path) -> None:
    """Write a stage's results into `out`."""
    write_json(
        out / "bench.json", bench_rows(found.paper, [*found.models, *found.blocks], found.machine)
    )
    write_scores(out / "scores.parquet", list(scores.rows(found)))
    write_metrics(out / "metrics.json", scores.summary(found))
    pictures.latency(out, found.blocks, found.machine, found.labels, found.attention_gb)
    exhibits.table(
        out, "integer", joined.rows(found), shown=True,
        title="Integer execution, for real",
        caption=f"Times on {found.machine}, medians over rounds. Bits, whole network and "
        "times smaller: counted, with 16 bits a floating-point number (32 in the rows of float32). "
        "Its file: packed integers and float32 numbers, of our network alone. Of published "
        "networks a block with random weights is timed, on a slice of their clip; the file and "
        "the memory beside it are the block's. Peak memory is the process's, runtime included. "
        "Inputs of fewer bits run as codes in 8, no faster, as the column says.",
    )  # fmt: skip
    exhibits.table(
        out, "blocks", exhibits.block_rows(found.blocks, found.beyond, found.attention_gb),
        title="Blocks of the published networks",
        caption=f"One block with random weights on {found.machine}. tokens=clip is a slice of the "
        "published clip: so many tokens, attending to all of it; its share of the clip's time is "
        "that of its tokens. Blocks whose attention would hold more than "
        f"{found.attention_gb:g} GB are not measured. Inputs of fewer bits run as codes in 8, "
        "no faster, as the column says. Limit: share of the best rates of this machine, "
        f"{found.limits.float_gops:.0f} float32 and {found.limits.integer_gops:.0f} int8 GOP/s and "
        f"{found.limits.gigabytes:.1f} GB/s on {found.limits.threads} thread"
        f"{'' if found.limits.threads == 1 else 's'}; above 100 where weights stay in the caches "
        "from run to run.",
    )  # fmt: skip
    if found.models:
        exhibits.table(
            out, "models", exhibits.model_rows(found.models, found.steps),
            title="Our network, deployed",
            caption="One evaluation for one clip, with and without its prompt, is a step; a clip "
            f"takes {found.steps} of them. Peak memory is the process's, runtime included. "
            "Inputs of fewer bits run as codes in 8, no faster. Limit: share of the machine's best "
            "rates, as of the blocks; a network this small is far below, its overheads are more.",
        )  # fmt: skip
    if found.quality:
        exhibits.table(
            out, "quality", exhibits.quality_rows(found.quality), timing=False,
            title="What the deployed network computes",
            caption="Signal over error of its predictions on full precision's walks, in dB, means "
            f"over {found.judged}. Where the last two columns are high, what was "
            "evaluated is what runs; a kernel that rounds inputs in its own way has a quality of "
            "its own.",
        )  # fmt: skip
    exhibits.table(
        out, "sizes", exhibits.size_rows(found.bits, found.plain),
        timing=False,
        title="True size",
        caption="Bits a number of the unquantized network, everything counted: codes, scales, zero "
        "points, clips, transforms, branches, biases, and all layers in full precision, with "
        "16 bits a floating-point number as published sizes count (evaluate counts 32, as our "
        "files hold them). Published networks from the shapes of their layers. File: packed "
        "integers and float32 numbers; bf16 and full are all tensors of the unquantized network, "
        "written in 16 and in 32 bits as the same kind of file.",
    )  # fmt: skip
    if found.costs:
        exhibits.table(
            out, "calibration", exhibits.cost_rows(found.costs),
            title="Calibrating an arm",
            caption=f"One seed at {found.calibrated}, each in a fresh process: processor time, and "
            "by how much it raised the process's memory. To an arm's time comes that of making the "
            "samples (the row calibrate), which all arms of a seed share.",
        )  # fmt: skip
    if found.updates:
        exhibits.table(
            out, "updates", exhibits.update_rows(found.updates),
            title="An update of block reconstruction",
            caption="Rows, forward, loss, backward and optimiser against forward and backward of "
            "the full-precision block with gradients of all its parameters, in turns; random "
            "weights and activations. Median processor time, and the median of the turns' ratios.",
        )  # fmt: skip
