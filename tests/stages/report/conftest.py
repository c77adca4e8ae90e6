"""A project whose page and board have been made."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.report import compare
from stages.report.page import write_page
from tests.stages.report import made


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of the project; tests must leave it as it is."""
    root = tmp_path_factory.mktemp("site")
    made.build(root)
    write_page(root, "demo", made.DEPS, root / "reports/papers")
    compare.run(root)
    return root
