"""The card that heads a page."""

from pathlib import Path

import pytest

from stages.core.errors import UserError
from stages.report import card

TEXT = """
# A title

A. Author: *A title*. arXiv:2505.12079v3, <https://example.org/a>

## Method
See [the code](model.py#L3) and [the web](https://example.org/b).

```
## not a heading
```

<script>alert(1)</script>

| a | b |
|---|---|
| 1 | 2 |
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_parts(tmp_path: Path) -> None:
    found = card.read(written(tmp_path, TEXT))
    assert (found.title, found.arxiv) == ("A title", "2505.12079")
    assert "<em>A title</em>" in found.front and "Method" not in found.front
    assert found.body.startswith("<h3>Method</h3>") and "<h3>not" not in found.body
    assert '<a href="https://example.org/b">the web</a>' in found.body


def test_what_would_break_beside_the_page_is_left_out(tmp_path: Path) -> None:
    body = card.read(written(tmp_path, TEXT)).body
    assert "model.py" not in body and "<span>the code</span>" in body
    assert "<script>" not in body
    assert '<div class="scroll" role="region" aria-label="Table" tabindex="0"><table>' in body


@pytest.mark.parametrize("text", ["", "A title\n=====\n", "## Too deep\n"])
def test_a_card_begins_with_its_title(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="first line must be '# <title>'"):
        card.read(written(tmp_path, text))
