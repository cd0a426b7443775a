"""Imports the application's own modules, and only from its folder."""

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from lastacross.errors import ApplicationModuleError

SDK_PAGE = 'docs/appengine.md, "Imports"'


def import_own(name: str, root: Path) -> ModuleType:
    """Import a module with the application's folder first on ``sys.path``.

    Args:
        name: the module's dotted name.
        root: the application's folder.

    Raises:
        ApplicationModuleError: the module does not exist, its import fails, or another module with the same
            name has already been imported.
    """
    if sys.path[:1] != [str(root)]:
        sys.path[:] = [str(root), *(entry for entry in sys.path if entry != str(root))]
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ApplicationModuleError(f"there is no module `{error.name}` in {root}") from error
        problem = f"`{name}` imports `{error.name}`, which is not installed{_hint(error.name)}"
        raise ApplicationModuleError(problem) from error
    except (Exception, SystemExit) as error:  # sys.exit() in a module must not end the process
        reason = f"{type(error).__name__}: {error}{_place(error, root)}"
        raise ApplicationModuleError(f"importing `{name}` failed: {reason}") from error
    _check_origin(name.partition(".")[0], root)
    return module


def _hint(missing: str | None) -> str:
    """Return the remedy for a module of App Engine's SDK, or '' for any other module."""
    if missing == "google" or f"{missing}.".startswith("google.appengine."):
        return f": set `google_names: true` in app.yaml; see {SDK_PAGE}"
    return ""


def _place(error: BaseException, root: Path) -> str:
    """Return where in the application the error was raised, for readers without a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(root)]
    if not own:
        return ""
    return f" ({Path(own[-1].filename).relative_to(root)}, line {own[-1].lineno})"


def _check_origin(top: str, root: Path) -> None:
    """Reject a module with the same name from elsewhere, such as `site` or another application's `main`."""
    own = [path for path in (root / f"{top}.py", root / top / "__init__.py") if path.is_file()]
    origin = getattr(sys.modules.get(top), "__file__", None)
    if own and (origin is None or Path(origin).resolve() not in {path.resolve() for path in own}):
        where = origin or "Python itself"
        raise ApplicationModuleError(f"`{top}` was imported from {where} before; rename {own[0].name}")
