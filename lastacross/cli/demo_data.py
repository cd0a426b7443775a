"""Loads demo data by calling a function of the application, by default ``load()`` of its ``demo.py``."""

from collections.abc import Callable

from lastacross import config
from lastacross.application_modules import import_own
from lastacross.config import Config
from lastacross.errors import ApplicationModuleError, ConfigError
from lastacross.processes import application


def load(configuration: Config) -> str:
    """Call the application's function and return the sentence that it returns.

    The function may be called more than once.

    Raises:
        ConfigError: the application has no such module or function, or its import fails.
        DatastoreError: the datastore is unavailable, or its tables are not up to date.
    """
    dotted = config.read_project(configuration.root, configuration.app).demo
    application.prepare_process(configuration)
    return str(_function(dotted, configuration)())


def _function(dotted: str, configuration: Config) -> Callable[[], object]:
    module_name, _, name = dotted.rpartition(".")
    path = configuration.root.joinpath(*module_name.split(".")).with_suffix(".py")
    if not path.is_file() and not path.with_suffix("").is_dir():
        raise ConfigError(
            f"this application has no demo data: `lastacross db demo` calls {name}() of this file, "
            "which does not exist",
            file=str(path),
        )
    try:
        module = import_own(module_name, configuration.root)
    except ApplicationModuleError as error:
        raise ConfigError(str(error), file=str(path)) from error
    found = getattr(module, name, None)
    if found is None or not callable(found):
        raise ConfigError(
            f"has no function {name}(): `lastacross db demo` calls it without arguments, and prints "
            "the sentence that it returns",
            file=str(path),
        )
    function: Callable[[], object] = found
    return function
