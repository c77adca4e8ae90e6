"""The outputs of a compressing stage as evaluation finds them: all that are asked for, no other."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from stages.core.dag import seed_range
from stages.core.errors import UserError


def runs(
    folder: Path, variants: Collection[str], seeds: Collection[str]
) -> dict[str, list[tuple[int, Path]]]:
    """For each variant its seeds, each with the folder that holds them.

    Args:
        folder: the stage's output, with one folder per variant and below it one per seed range.
        variants: the arms that params.yaml names.
        seeds: the ranges that params.yaml names, such as "0-2".

    Returns:
        variant -> (seed, `<folder>/<variant>/<range>`), in the order of `variants` and the seeds.

    Raises:
        UserError: a variant or a range is missing, or one lies there that params.yaml does not
            name (scores of an arm that was renamed or dropped must not live on), or two ranges
            share a seed.
    """
    same_folders(folder, variants)
    pairs = sorted((seed, text) for text in seeds for seed in seed_range(text))
    numbers = [seed for seed, _ in pairs]
    twice = sorted({seed for seed in numbers if numbers.count(seed) > 1})
    if twice:
        raise UserError(f"params.yaml: the seeds {twice} stand in two ranges of {sorted(seeds)}")
    for variant in variants:
        same_folders(folder / variant, seeds)
    return {v: [(seed, folder / v / text) for seed, text in pairs] for v in variants}


def same_folders(folder: Path, wanted: Collection[str]) -> None:
    """Check that `folder` holds exactly the folders `wanted`.

    Raises:
        UserError: one is missing, or one too many lies there.
    """
    entries = folder.iterdir() if folder.is_dir() else ()
    # A name with a dot in front is what a rename that was cut short leaves for a moment.
    there = {entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."}
    missing, unknown = sorted(set(wanted) - there), sorted(there - set(wanted))
    shown = "/".join(folder.parts[-3:])
    if unknown:
        raise UserError(
            f"{shown} holds {', '.join(unknown)}, which params.yaml does not name; delete "
            f"{'it' if len(unknown) == 1 else 'them'}, or name it again in params.yaml"
        )
    if missing:
        raise UserError(f"{shown} lacks {', '.join(missing)}; `dvc repro` makes what is missing")
