"""A paper's card: `pipelines/<paper>/README.md`, whose front part heads the paper's page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stages.core.errors import UserError

_ARXIV = re.compile(r"arXiv[:\s]*(\d{4}\.\d{4,5})(?:v\d+)?", re.IGNORECASE)
_TABLE = '<div class="scroll" role="region" aria-label="Table" tabindex="0"><table>\n'


@dataclass(frozen=True)
class Card:
    """The card in parts.

    Attributes:
        title: text of its first heading.
        arxiv: arXiv number, or "".
        front: HTML of what stands between the title and the next heading (citation, summary).
        body: HTML of the rest, its headings one level deeper so that they fit below a section.
    """

    title: str
    arxiv: str
    front: str
    body: str


def read(path: Path) -> Card:
    """Read a card.

    Raises:
        UserError: it does not begin with a title such as `# Name of the paper`.
    """
    from markdown_it import MarkdownIt

    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.strip()), 0)
    if not lines or not lines[start].startswith("# "):
        raise UserError(f"{path.parent.name}/{path.name}: the first line must be '# <title>'")
    fenced = False
    end = len(lines)
    for i, line in enumerate(lines[start + 1 :], start + 1):
        fenced ^= line.startswith("```")
        if line.startswith("## ") and not fenced:
            end = i
            break
    front = "\n".join(lines[start + 1 : end])
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("link_open", _link_open)
    parser.add_render_rule("link_close", _link_close)
    parser.add_render_rule("table_open", lambda *_: _TABLE)
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    parser.add_render_rule("heading_open", lambda self, tokens, i, *_: _heading(tokens[i].tag, "<"))
    parser.add_render_rule(
        "heading_close", lambda self, tokens, i, *_: _heading(tokens[i].tag, "</") + "\n"
    )
    found = _ARXIV.search(front)
    return Card(
        title=lines[start][2:].strip(),
        arxiv=found[1] if found else "",
        front=parser.render(front),
        body=parser.render("\n".join(lines[end:])),
    )


def _heading(tag: str, opening: str) -> str:
    return f"{opening}h{min(int(tag[1]) + 1, 6)}>"


def _link_open(self, tokens, i, options, env):  # type: ignore[no-untyped-def]
    """Keep links out to the web; one to a file of the project would break beside the page."""
    return f'<a href="{tokens[i].attrGet("href")}">' if _web(tokens, i) else "<span>"


def _link_close(self, tokens, i, options, env):  # type: ignore[no-untyped-def]
    opening = next(j for j in range(i, -1, -1) if tokens[j].type == "link_open")
    return "</a>" if _web(tokens, opening) else "</span>"


def _web(tokens, i):  # type: ignore[no-untyped-def]
    return str(tokens[i].attrGet("href")).startswith("https://")
