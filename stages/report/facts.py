"""What the pages are made from: the result files of a paper, read as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.pictures import read_exhibits

VERDICTS = {
    "holds": "holds",
    "holds in direction": "direction",
    "fails": "fails",
    "inconclusive": "inconclusive",
    "not testable here": "untested",
    "check passed": "passed",
    "check failed": "broken",
}
"""Every verdict with its class in the style sheet."""

READING = {
    "holds": "The 95 % interval lies wholly on the claimed side, and the value reaches the "
    "published size within the tolerance.",
    "holds in direction": "Wholly on the claimed side, but smaller than published.",
    "fails": "Wholly on the other side: the claim does not hold here.",
    "inconclusive": "The interval contains both sides: these seeds and test items cannot tell. "
    "This is no evidence against the claim.",
    "not testable here": "This profile leaves out what the claim needs; the reason and the profile "
    "that could test it are given.",
    "check passed": "A quantity that we set ourselves is as we set it; not a claim that holds.",
    "check failed": "A quantity that we set ourselves is not as we set it.",
}
"""How to read each verdict; every page shows it."""

_APART = {
    "backbone": "net",
    "dataset": "data",
    "variant": "arm",
    "baseline": "against",
    "condition": "condition",
}
_DIGESTS = ("code", "data", "params", "environment")


@dataclass(frozen=True)
class Stage:
    """One output folder of a stage, with where it came from.

    Attributes:
        folder: the folder itself.
        name: the stage, with variant and seeds where it has them.
        command: the command that remakes it.
        digests: digests of code, data, params and environment.
        exhibits: what it wants shown.
    """

    folder: Path
    name: str
    command: str
    digests: dict[str, str]
    exhibits: list[dict[str, str]]

    @property
    def timed(self) -> bool:
        """Whether its numbers rest on a timing: only `bench` may measure one."""
        return self.name.partition("@")[0] == "bench"


def read_stages(root: Path, deps: Iterable[str]) -> list[Stage]:
    """Find the stage folders at or below the paths `deps`, in that order.

    Args:
        root: the project's root.
        deps: paths from the root, as dvc.yaml lists them; what is not below work/ is passed over.
    """
    found = []
    for dep in deps:
        if not dep.startswith("work/"):
            continue
        for path in sorted((root / dep).rglob("provenance.json")):
            said = read_json(path)
            parts = [said[key] for key in ("variant", "seeds") if said.get(key)]
            found.append(
                Stage(
                    folder=path.parent,
                    name="@".join([said["stage"], *(["-".join(parts)] if parts else [])]),
                    command=said["command"],
                    digests={key: said[key] for key in _DIGESTS},
                    exhibits=read_exhibits(path.parent),
                )
            )
    return found


def read_verdicts(path: Path) -> dict[str, Any]:
    """Read `reports/papers/<paper>.json`.

    Raises:
        UserError: it is missing, or holds a verdict that the report does not know.
    """
    if not path.is_file():
        raise UserError(f"missing: {path.name}; `dvc repro` makes it (stage claims)")
    verdicts = dict(read_json(path))
    for claim in verdicts["claims"]:
        if claim["verdict"] not in VERDICTS:
            allowed = ", ".join(VERDICTS)
            raise UserError(
                f"{path.name}: claim '{claim['id']}' has the unknown verdict "
                f"'{claim['verdict']}'; allowed: {allowed}"
            )
    return verdicts


def tally(claims: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Count claims by verdict, best first, verdicts without a claim included."""
    given = [claim["verdict"] for claim in claims]
    return {verdict: given.count(verdict) for verdict in VERDICTS}


@dataclass(frozen=True)
class CellColumns:
    """What a claim's cells have beside their verdict.

    Attributes:
        apart: keys that tell the cells apart, with their headings.
        also: further comparisons of the same scores.
    """

    apart: dict[str, str]
    also: list[str]


def cell_columns(claim: dict[str, Any]) -> CellColumns:
    """Find the columns of the table of a claim's cells."""
    keys = list(dict.fromkeys(key for cell in claim["cells"] for key in cell))
    also = [key for key in keys if f"{key}_unit" in keys]
    return CellColumns({key: name for key, name in _APART.items() if key in keys}, also)
