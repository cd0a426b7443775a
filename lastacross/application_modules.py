"""The application's own modules: imported from its folder, and from nowhere else."""

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from lastacross.errors import ApplicationModuleError


def import_own(name: str, root: Path) -> ModuleType:
    """Import a module with the application's folder first on ``sys.path``.

    Args:
        name: dotted.
        root: the application's folder.

    Raises:
        ApplicationModuleError: there is no such module, its import fails, or another module of this name was
            imported before.
    """
    if sys.path[:1] != [str(root)]:
        sys.path[:] = [str(root), *(entry for entry in sys.path if entry != str(root))]
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ApplicationModuleError(f"there is no module `{error.name}` in {root}") from error
        raise ApplicationModuleError(f"`{name}` imports `{error.name}`, which is not installed") from error
    except (Exception, SystemExit) as error:  # sys.exit() in a module must not pass for an order to end
        reason = f"{type(error).__name__}: {error}{_place(error, root)}"
        raise ApplicationModuleError(f"importing `{name}` failed: {reason}") from error
    _check_origin(name.partition(".")[0], root)
    return module


def _place(error: BaseException, root: Path) -> str:
    """Where in the application it was raised, for a reader who gets no traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(root)]
    if not own:
        return ""
    return f" ({Path(own[-1].filename).relative_to(root)}, line {own[-1].lineno})"


def _check_origin(top: str, root: Path) -> None:
    """A module of the same name elsewhere (`site`, another application's `main`) must not stand in."""
    own = [path for path in (root / f"{top}.py", root / top / "__init__.py") if path.is_file()]
    origin = getattr(sys.modules.get(top), "__file__", None)
    if own and (origin is None or Path(origin).resolve() not in {path.resolve() for path in own}):
        where = origin or "Python itself"
        raise ApplicationModuleError(f"`{top}` was imported from {where} before; rename {own[0].name}")
