"""Demo data: what ``lastacross db demo`` loads is the application's, in ``load()`` of its ``demo.py``."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from lastacross.config import Config
from lastacross.errors import ConfigError
from lastacross.runtime import application

MODULE, FUNCTION = "demo", "load"


def load(configuration: Config) -> str:
    """Call the application's ``demo.load()``, which may be repeated; answers what it says that it did.

    Raises:
        ConfigError: the application has no such module or function, or its import fails.
        DatastoreError: the datastore is away, or its tables are not up to date.
    """
    application.prepare_process(configuration)
    return str(_function(configuration.root / f"{MODULE}.py")())


def _function(path: Path) -> Callable[[], object]:
    found = getattr(_imported(path), FUNCTION, None)
    if found is None or not callable(found):
        raise ConfigError(
            f"has no function {FUNCTION}(): `lastacross db demo` calls it without arguments, and prints "
            "the sentence that it returns",
            file=str(path),
        )
    function: Callable[[], object] = found
    return function


def _imported(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(
            f"this application has no demo data: `lastacross db demo` calls {FUNCTION}() of this file, "
            "which is not there",
            file=str(path),
        )
    try:
        module = importlib.import_module(MODULE)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"cannot be imported: {type(error).__name__}: {error}", file=str(path)) from error
    origin = getattr(sys.modules[MODULE], "__file__", None)
    if origin is None or Path(origin).resolve() != path.resolve():
        raise ConfigError(f"`{MODULE}` was imported from {origin} before", file=str(path))
    return module
