"""One score for each variant and seed."""

from typing import Annotated

from pipelines.demo.prune import Variant

from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.results import write_metrics, write_scores


class Params(core.Params):
    variants: Annotated[dict[str, Variant], core.Borrowed("prune.variants")]


def run(params, inputs, out, job):
    rows = []
    for file in sorted(inputs["prune"].glob("*/*/seed*.json")):
        variant = file.parts[-3]
        if variant not in params.variants:
            raise UserError(f"unknown variant {variant} in {file}")
        found = read_json(file)
        rows.append(
            {
                "paper": "demo",
                "backbone": "net",
                "dataset": "sine",
                "variant": variant,
                "condition": "",
                "seed": found["seed"],
                "item": "",
                "metric": "kept",
                "value": float(sum(found["keep"])),
                "unit": "",
                "direction": "none",
                "censored": False,
            }
        )
    write_scores(out / "scores.parquet", rows)
    write_metrics(out / "metrics.json", {"rows": len(rows)})
