"""data.lock: the packages that carry data, pinned by digest, with author and licence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from stages.core.errors import UserError
from stages.core.params import Params, read_yaml

NAME = "data.lock"

Text = Annotated[str, Field(min_length=1)]


class Voice(Params):
    """The one person heard in a package."""

    id: Annotated[str, Field(pattern=r"^[a-z]+$")]
    speaker: Text
    language: Text


class Package(Params):
    """One package.

    Attributes:
        index: where it is had: Debian's archive or PyPI.
        sha256: digest of the downloaded file (.deb, .whl or .tar.gz).
        bytes: size of that file.
        licence: SPDX identifier, "-IT" for an Italian text; "BSD-style" for a text of its own.
        attribution: whom to name, and how the author asks for it, wherever the data are heard.
        take: folders or files inside the package that are read.
        papers: who reads it.
        voice: for recordings of one person.
    """

    index: Literal["debian", "pypi"]
    version: Text
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(gt=0)]
    licence: Text
    author: Text
    attribution: Text
    take: Annotated[list[Text], Field(min_length=1)]
    papers: Annotated[list[Text], Field(min_length=1)]
    voice: Voice | None = None


class DataLock(Params):
    packages: dict[str, Package]

    def of(self, paper: str | None = None, index: str | None = None) -> dict[str, Package]:
        """The packages that a paper reads and an index carries, sorted by name."""
        return {
            name: package
            for name, package in sorted(self.packages.items())
            if (paper is None or paper in package.papers)
            and (index is None or index == package.index)
        }


def read(root: Path) -> DataLock:
    """Read `root`/data.lock.

    Raises:
        UserError: it is missing or malformed; the message names the entry.
    """
    try:
        return DataLock.model_validate(read_yaml(root / NAME))
    except ValidationError as error:
        lines = [f"{NAME}: '{'.'.join(map(str, e['loc']))}': {e['msg']}" for e in error.errors()]
        raise UserError("\n".join(lines)) from None


def combined(licences: Iterable[str]) -> str:
    """The licence under which a work made of parts under `licences` may be handed on.

    Returns:
        The licence, or "" where none is known to serve all parts: such a work may be measured
        here, but must not be published. A mixture of a CC-BY-SA voice with a GPL-2 one is such a
        case, since each licence asks for the whole under itself.
    """
    # The national text of the same version and elements counts as the same licence (CC-BY-SA 3.0,
    # section 4b).
    kinds = {re.sub(r"(?<=3\.0)-[A-Z]{2}$", "", licence) for licence in licences}
    strict = kinds - {"BSD-style"}  # asks only that its notice be kept
    if not strict:
        return "BSD-style" if kinds else ""
    if strict <= {"CC-BY-3.0", "CC-BY-SA-3.0"}:
        return max(strict)  # share-alike wins
    return strict.pop() if strict == {"GPL-2.0-only"} else ""
