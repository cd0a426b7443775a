"""Counts lines of code, without blank lines, comments and docstrings.

    python -m tests.support.code_lines [FOLDER]

prints the product's lines per room, for the engine's Python and Lua and for the application's modules.
"""

import ast
import sys
from collections import Counter
from pathlib import Path


def code_lines(text: str) -> int:
    """The number of lines with code in a Python text. All lines of a multi-line string count."""
    tree = ast.parse(text)
    docstrings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Expr)
        for line in _lines_of_text(node)
    }
    inside = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.JoinedStr)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return sum(
        number not in docstrings and bool(line.strip()) and (number in inside or line.lstrip()[0] != "#")
        for number, line in enumerate(text.splitlines(), 1)
    )


def _lines_of_text(node: ast.AST) -> range:
    """The lines of a string that is a statement: a docstring, or the text below a constant."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    if not is_text or not isinstance(node.value.value, str):  # type: ignore[attr-defined]
        return range(0)
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)  # type: ignore[attr-defined]


def lua_lines(text: str) -> int:
    """The number of lines with code in a Lua text."""
    return sum(bool(line.strip()) and not line.lstrip().startswith("--") for line in text.splitlines())


def by_room(root: Path) -> tuple[Counter[str], Counter[str]]:
    """Lines of Python and of Lua for each room of the engine, ``programs/…``, and ``.`` for the root."""
    python: Counter[str] = Counter()
    lua: Counter[str] = Counter()
    for pattern in ("*.py", "programs/**/*.py", "lastacross/**/*.py", "migrations/*.py"):
        for path in root.glob(pattern):
            python[_room(path.relative_to(root))] += code_lines(path.read_text())
    for path in root.glob("lastacross/**/*.lua"):
        lua[_room(path.relative_to(root))] += lua_lines(path.read_text())
    return python, lua


def _room(path: Path) -> str:
    if path.parts[0] == "lastacross":
        return f"lastacross/{path.parts[1].removesuffix('.py')}"
    return "/".join(path.parts[:2]) if path.parts[0] == "programs" else "."


def report(root: Path) -> str:
    """A table of both counts, as text."""
    python, lua = by_room(root)
    lines = [f"{room:32}{python[room]:8}{lua[room] or '':8}" for room in sorted({*python, *lua})]
    total = f"{'all':32}{python.total():8}{lua.total():8}"
    return "\n".join([f"{'room':32}{'Python':>8}{'Lua':>8}", *lines, total])


if __name__ == "__main__":
    print(report(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
