"""How sure a simulated trajectory is: by how much it changes when the method is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.sdkd.navier_stokes import Recipe, initial, solve
from stages.core.pictures import add_exhibit
from stages.core.seeding import seed_of
from stages.prepare.tables import write_csv


def accuracy(recipe: Recipe, seed: int, out: Path) -> dict[str, dict[str, float]]:
    """Simulate one trajectory again with another precision, step, grid and scheme.

    Writes `accuracy.csv` and lists it.

    Returns:
        What was changed -> time -> |changed - ours| / |ours|; a time at which the changed
        simulation is not finite is left out.
    """
    start = initial(recipe, [seed_of("vorticity", seed, "test", 0)])
    own = solve(recipe, start)[0]
    places = sorted({0, (recipe.frames - 1) // 2, recipe.frames - 1})
    times = {place: f"{(place + 1) * recipe.interval:g}" for place in places}
    found: dict[str, dict[str, float]] = {}
    rows = []
    for name, (title, change) in _changes(recipe).items():
        other = solve(recipe.model_copy(update=change), start)[0]
        found[name] = {}
        row: dict[str, Any] = {"changed": title}
        for place, time in times.items():
            column = f"time {time}"
            if other[place].isfinite().all():
                value = float((other[place] - own[place]).norm() / own[place].norm())
                found[name][f"time_{time}"] = value
                row[column] = f"{value:.1e}"
            else:
                row[column] = "not finite"
        rows.append(row)
    write_csv(out / "accuracy.csv", rows)
    add_exhibit(
        out,
        kind="table",
        name="accuracy",
        file="accuracy.csv",
        title="How sure the simulation is",
        caption="One test trajectory simulated again with one thing changed: the distance from "
        "ours relative to its norm, |changed - ours| / |ours|, at three times. Explicit Euler is "
        "the scheme of the usual recipe; at these viscosities it breaks down.",
    )
    return found


def _changes(recipe: Recipe) -> dict[str, tuple[str, dict[str, Any]]]:
    double = recipe.precision == "float32"
    ab2 = recipe.scheme == "ab2"
    # A finer grid holds faster modes, for which the step must be shorter.
    finer = {"grid": 2 * recipe.grid, "step": recipe.step / 2}
    return {
        "precision": (
            "double precision" if double else "single precision",
            {"precision": "float64" if double else "float32"},
        ),
        "step": ("half the time step", {"step": recipe.step / 2}),
        "grid": ("twice the grid, half the time step", finer),
        "scheme": (
            "explicit Euler" if ab2 else "Adams-Bashforth",
            {"scheme": "euler" if ab2 else "ab2"},
        ),
    }
