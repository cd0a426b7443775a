"""Recognizes scripts of app.yaml that are ASGI applications, without importing the application.

``config check`` runs none of the application's code, so it looks at how the name is defined. A start imports
the module and knows for certain.
"""

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeGuard

from lastacross.config.values import Handler
from lastacross.errors import ConfigError

# The functions and classes whose result is an ASGI application, and the framework.
MAKERS = {
    **{name: name for name in ("FastAPI", "Litestar", "Quart", "Sanic", "Starlette")},
    "get_asgi_application": "Django",
}
MOUNT = "mount"
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
    makers = MAKERS | {node.name: node.name for node in body if _is_called_async(node)}
    kinds: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.AsyncFunctionDef):
            kinds[node.name] = node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            kind = _kind_of_value(node.value, makers, kinds)
            kinds.update((ast.unparse(target), kind) for target in targets)
    return kinds.get(name, "")


def _kind_of_value(value: ast.expr | None, makers: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    if not isinstance(value, ast.Call):
        return ""
    maker = ast.unparse(value.func).rpartition(".")[2]
    if maker == MOUNT and value.args:
        # `app = longtask.mount(app, …)` serves the former application, too.
        return kinds.get(ast.unparse(value.args[0]), "")
    return makers.get(maker, "")


def _is_called_async(node: ast.stmt) -> TypeGuard[ast.ClassDef]:
    return isinstance(node, ast.ClassDef) and any(
        isinstance(each, ast.AsyncFunctionDef) and each.name == "__call__" for each in node.body
    )
