"""Recognizes scripts of app.yaml that are ASGI applications, without importing the application.

``config check`` runs none of the application's code, so it looks at how the name is defined. A start imports
the module and knows for certain.
"""

import ast
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from lastacross.config.values import Handler
from lastacross.errors import ConfigError

# The functions and classes whose result is an ASGI application, and the framework.
MAKERS = {
    **{name: name for name in ("FastAPI", "Litestar", "Quart", "Sanic", "Starlette")},
    "get_asgi_application": "Django",
}
_AUTO = "main.app"


def mistakes(handlers: Iterable[Handler], root: Path) -> list[ConfigError]:
    """A mistake for each script that is an ASGI application, if a2wsgi is not installed."""
    scripts = {handler.script: handler for handler in handlers if handler.script}
    if not scripts or importlib.util.find_spec("a2wsgi") is not None:
        return []
    found = []
    for script, handler in scripts.items():
        module, _, name = (_AUTO if script == "auto" else script).rpartition(".")
        kind = _kind_of(name, _source(root.joinpath(*module.split("."))))
        if kind:
            problem = f"`{name}` is an ASGI application ({kind}), which needs a2wsgi"
            message = f"script: {script}: {problem}; install lastacross[asgi]"
            found.append(ConfigError(message, file=handler.file, line=handler.line))
    return found


def _source(path: Path) -> str:
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file.read_text(encoding="utf-8", errors="replace")
    return ""


def _kind_of(name: str, source: str) -> str:
    """The kind of ASGI application that a module's source gives this name; '' if it is none, or unknown."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return ""
    own = {node.name: node.name for node in body if isinstance(node, ast.ClassDef) and _is_called_async(node)}
    kind = ""
    for node in body:
        if isinstance(node, ast.AsyncFunctionDef) and node.name == name:
            kind = name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in map(ast.unparse, targets):
                maker = ast.unparse(node.value.func) if isinstance(node.value, ast.Call) else ""
                last = maker.rpartition(".")[2]
                kind = (MAKERS | own).get(last, "")
    return kind


def _is_called_async(node: ast.ClassDef) -> bool:
    return any(isinstance(each, ast.AsyncFunctionDef) and each.name == "__call__" for each in node.body)
