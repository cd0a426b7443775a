"""The application's code, found by the dotted name that app.yaml's ``script:`` gives."""

import functools
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import cast

from lastacross import config
from lastacross.errors import ConfigError
from lastacross.webapp import adopt
from lastacross.webapp.environ import Wsgi

# What `script: auto` means: App Engine's Python 3 runtimes serve `app` of main.py.
AUTO = "main.app"


def load_script(dotted: str, root: Path | None = None) -> Wsgi:
    """The WSGI application that a ``script:`` names; its module is imported at the first call.

    Args:
        dotted: ``module.app``, ``package.module.app`` or ``auto``.
        root: the application's folder, put first on ``sys.path``; by default the current one.

    Raises:
        ConfigError: there is no such module or name, its import fails, or it is not callable.
    """
    return _load(dotted, (root or config.current().root).resolve())


@functools.cache
def _load(dotted: str, root: Path) -> Wsgi:
    module_name, _, name = (AUTO if dotted == "auto" else dotted).rpartition(".")
    if not module_name:
        raise _error(dotted, f"takes a module and a name in it, like `{dotted or 'main'}.app`")
    module = _import(dotted, module_name, root)
    found = getattr(module, name, None)
    if found is None:
        raise _error(dotted, f"module `{module_name}` has no `{name}`")
    if not callable(found):
        raise _error(dotted, f"`{name}` is a {type(found).__name__}, not a WSGI application")
    return adopt.adopt(cast(Wsgi, found))


def _import(dotted: str, module_name: str, root: Path) -> ModuleType:
    if sys.path[:1] != [str(root)]:
        sys.path[:] = [str(root), *(entry for entry in sys.path if entry != str(root))]
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise _error(dotted, f"there is no module `{error.name}` in {root}") from error
        raise _error(dotted, f"`{module_name}` imports `{error.name}`, which is not installed") from error
    except (Exception, SystemExit) as error:  # sys.exit() in a module must not pass for an order to end
        what = f"{type(error).__name__}: {error}{_place(error, root)}"
        raise _error(dotted, f"importing `{module_name}` failed: {what}") from error
    _check_origin(dotted, module_name.partition(".")[0], root)
    return module


def _place(error: BaseException, root: Path) -> str:
    """Where in the application it was raised, for a reader who gets no traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(root)]
    if not own:
        return ""
    return f" ({Path(own[-1].filename).relative_to(root)}, line {own[-1].lineno})"


def _check_origin(dotted: str, top: str, root: Path) -> None:
    """A module of the same name elsewhere (`site`, another application's `main`) must not stand in."""
    own = [path for path in (root / f"{top}.py", root / top / "__init__.py") if path.is_file()]
    origin = getattr(sys.modules.get(top), "__file__", None)
    if own and (origin is None or Path(origin).resolve() not in {path.resolve() for path in own}):
        where = origin or "Python itself"
        raise _error(dotted, f"`{top}` was imported from {where} before; rename {own[0].name}")


def _error(dotted: str, message: str) -> ConfigError:
    return ConfigError(f"script: {dotted}: {message}", file="app.yaml")
