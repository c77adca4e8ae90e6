"""The local import closure of a module: the files whose code can change what it computes."""

from __future__ import annotations

import ast
from pathlib import Path


def imported(path: Path, root: Path) -> set[Path]:
    """Local files that `path` imports anywhere in it, except under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    found: set[Path] = set()
    for statement in _running(tree):
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0 and statement.module:
            names = [statement.module]
            names += [f"{statement.module}.{alias.name}" for alias in statement.names]
        else:
            continue
        for name in names:
            found |= _files(name, root)
    return found


def closure(path: Path, root: Path) -> set[Path]:
    """All local files that running `path` can import, itself included."""
    seen: set[Path] = set()
    left = [path]
    while left:
        current = left.pop()
        if current not in seen:
            seen.add(current)
            left += imported(current, root)
    return seen


def _running(node: ast.AST) -> list[ast.AST]:
    """Statements below `node`, those that only type checkers see left out."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                found += [other, *_running(other)]
            continue
        found += [child, *_running(child)]
    return found


def _files(name: str, root: Path) -> set[Path]:
    if name.split(".")[0] not in ("stages", "pipelines"):
        return set()
    base = root / name.replace(".", "/")
    candidates = [base.with_suffix(".py"), base / "__init__.py"]
    # Importing a.b.c runs the __init__ of a and of a.b first.
    for parent in base.parents:
        if parent == root:
            break
        candidates.append(parent / "__init__.py")
    return {c for c in candidates if c.is_file() and c.read_text().strip()}
