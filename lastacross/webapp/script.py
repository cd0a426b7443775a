"""The application's code, found by the dotted name that app.yaml's ``script:`` gives."""

import functools
from pathlib import Path
from typing import cast

from lastacross import config
from lastacross.application_modules import import_own
from lastacross.errors import ApplicationModuleError, ConfigError
from lastacross.webapp import webapp2_compat
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
    try:
        module = import_own(module_name, root)
    except ApplicationModuleError as error:
        raise _error(dotted, str(error)) from error
    found = getattr(module, name, None)
    if found is None:
        raise _error(dotted, f"module `{module_name}` has no `{name}`")
    if not callable(found):
        raise _error(dotted, f"`{name}` is a {type(found).__name__}, not a WSGI application")
    return webapp2_compat.adopt(cast(Wsgi, found))


def _error(dotted: str, message: str) -> ConfigError:
    return ConfigError(f"script: {dotted}: {message}", file="app.yaml")
