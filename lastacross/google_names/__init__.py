"""Makes ``from google.appengine.api import taskqueue`` and similar imports resolve to this engine.

An application opts in by ``google_names: true`` in app.yaml, or by calling ``install()`` before such an
import. Only names below ``google.appengine`` are added. The rules are in docs/appengine.md, "Google's names".
"""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType

from lastacross.errors import ConfigError

__all__ = ["install", "provided"]

ROOT = "google.appengine"

_OWN = "lastacross.google_names"
# Google's module and ours. A module without one of ours only has parts.
_TARGETS: dict[str, str | None] = {
    ROOT: None,
    f"{ROOT}.api": f"{_OWN}.api",
    f"{ROOT}.api.channel": "lastacross.channel",
    f"{ROOT}.api.channel.channel": "lastacross.channel",
    f"{ROOT}.api.labs": None,
    f"{ROOT}.api.labs.taskqueue": "lastacross.taskqueue",
    f"{ROOT}.api.labs.taskqueue.taskqueue": "lastacross.taskqueue",
    f"{ROOT}.api.memcache": "lastacross.memcache",
    f"{ROOT}.api.namespace_manager": "lastacross.namespace_manager",
    f"{ROOT}.api.namespace_manager.namespace_manager": "lastacross.namespace_manager",
    f"{ROOT}.api.runtime": "lastacross.runtime",
    f"{ROOT}.api.runtime.runtime": "lastacross.runtime",
    f"{ROOT}.api.taskqueue": "lastacross.taskqueue",
    f"{ROOT}.api.taskqueue.taskqueue": "lastacross.taskqueue",
    f"{ROOT}.api.urlfetch": "lastacross.urlfetch",
    f"{ROOT}.api.urlfetch_errors": "lastacross.urlfetch",
    f"{ROOT}.ext": None,
    f"{ROOT}.ext.deferred": "lastacross.deferred",
    f"{ROOT}.ext.deferred.deferred": "lastacross.deferred",
    f"{ROOT}.runtime": f"{_OWN}.runtime",
    f"{ROOT}.runtime.apiproxy_errors": f"{_OWN}.apiproxy_errors",
}

_PACKAGES = frozenset({ROOT, *(f"{ROOT}.{name}" for name in ("api", "api.labs", "ext", "runtime"))})

_DOCS = 'docs/appengine.md of Last Across, "Google\'s names", lists the names that are'

_MODELS = "declare SQLAlchemy models, and read and write them in lastacross.datastore.session()"
_FILES = "keep files in a folder or an object store, and take uploads as ordinary form fields"
_SERVICES = "the variable LASTACROSS_SERVICE and backends.yaml tell which service runs"

# The part of the name below google.appengine → what to use.
_REPLACEMENTS = {
    "api.app_identity": "read the application's name and address from settings of your own",
    "api.apiproxy_stub": "use lastacross.testing in tests",
    "api.apiproxy_stub_map": "use lastacross.testing in tests",
    "api.background_thread": "use threading.Thread",
    "api.backends": _SERVICES,
    "api.blobstore": _FILES,
    "api.capabilities": "ask /_ah/ready whether Redis and the database answer",
    "api.datastore": _MODELS,
    "api.datastore_errors": "catch the errors of lastacross.datastore",
    "api.datastore_types": _MODELS,
    "api.files": _FILES,
    "api.images": "use Pillow",
    "api.lib_config": "read settings of your own from the environment",
    "api.logservice": "write to the standard library's logging, and read the processes' output",
    "api.mail": "use smtplib, or your mail provider's library, in a task",
    "api.mail_errors": "use smtplib, or your mail provider's library, in a task",
    "api.modules": _SERVICES,
    "api.oauth": "check tokens with Authlib or your provider's library",
    "api.prospective_search": "use the full-text search of your database",
    "api.quota": "use lastacross.runtime.cpu_usage()",
    "api.search": "use the full-text search of your database",
    "api.servers": _SERVICES,
    "api.users": "use `login:` in app.yaml and lastacross.webapp.signed_in(environ)",
    "api.xmpp": "use lastacross.channel for messages to browsers",
    "datastore": _MODELS,
    "ext.appstats": "use the metrics at /_ah/metrics, or traces (LASTACROSS_TRACES)",
    "ext.blobstore": _FILES,
    "ext.db": _MODELS,
    "ext.mapreduce": "use lastacross.taskqueue.Batch",
    "ext.ndb": _MODELS,
    "ext.remote_api": "run a script with LASTACROSS_APP set to the application's folder",
    "ext.search": "use the full-text search of your database",
    "ext.testbed": "use lastacross.testing",
    "ext.vmruntime": "remove it; nothing here needs it",
    "ext.webapp": "use webapp2 and lastacross.webapp",
}


def install() -> None:
    """Add Google's names to this process's imports; a second call has no effect.

    An import of a module that is not there raises a ModuleNotFoundError, and an import of another name an
    ImportError. Both say what to use instead. The error's ``name`` is ``google.appengine`` for a module.

    Raises:
        ConfigError: the real ``google.appengine`` is installed.
    """
    if any(isinstance(finder, _Names) for finder in sys.meta_path):
        return
    place = _real_place()
    if place is not None:
        raise ConfigError(
            f"google_names cannot be used, because the real google.appengine is installed ({place}): "
            "uninstall it, or import the modules from lastacross instead"
        )
    sys.meta_path.insert(0, _Names())
    # A package `google` that is installed, or that an application brings along, comes first.
    sys.meta_path.append(_Google())


def provided() -> list[str]:
    """The full names of Google's modules that ``install`` provides."""
    return sorted(_TARGETS)


def _real_place() -> str | None:
    """Return where the real package is; None if it cannot be imported."""
    try:
        spec = find_spec(ROOT)
    except ModuleNotFoundError:
        return None
    except ValueError:
        # The module is in memory, and nobody knows where it came from.
        return "already imported"
    if spec is None:
        return None
    return spec.origin or ", ".join(spec.submodule_search_locations or ()) or "already imported"


def _replacement_of(name: str) -> str:
    """What to use instead of a module or a name; ``name`` begins with ``google.appengine.``."""
    parts = name.split(".")[2:]
    for count in range(len(parts), 0, -1):
        found = _REPLACEMENTS.get(".".join(parts[:count]))
        if found is not None:
            return found
    return _DOCS


def _missing(name: str) -> ImportError:
    """The error for a module, or for a name in one of the modules that are here."""
    text = f"{name} is not available here: {_replacement_of(name)}"
    parent, _, last = name.rpartition(".")
    # All of Google's modules are lower-case, and only these contain others.
    if parent in _PACKAGES and last.islower():
        # If the error had the module's own name, `from … import …` would replace its text.
        return ModuleNotFoundError(text, name=ROOT)
    return ImportError(text, name=name)


class _GoogleModule(ModuleType):
    """One of Google's modules, whose names are those of our module, looked up when they are used.

    A value that is set here, as by ``mock.patch``, is set in our module.
    """

    def __init__(self, name: str, target: ModuleType | None) -> None:
        super().__init__(name, None if target is None else target.__doc__)
        self.__dict__["_target"] = target

    def __getattr__(self, name: str) -> object:
        target = self.__dict__["_target"]
        if target is None or (name.startswith("__") and name != "__all__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(target, name)

    def __setattr__(self, name: str, value: object) -> None:
        if self._keeps(name) or isinstance(value, _GoogleModule):
            super().__setattr__(name, value)
        else:
            setattr(self.__dict__["_target"], name, value)

    def __delattr__(self, name: str) -> None:
        if self._keeps(name) or name in self.__dict__:
            super().__delattr__(name)
        else:
            delattr(self.__dict__["_target"], name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.__dict__["_target"])})

    def _keeps(self, name: str) -> bool:
        return name.startswith("__") or self.__dict__["_target"] is None


class _Loader(Loader):
    """Creates Google's modules; the first import of each imports ours."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        target = _TARGETS.get(spec.name)
        return _GoogleModule(spec.name, None if target is None else importlib.import_module(target))

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing, because the module looks up its names when they are used."""


class _Names(MetaPathFinder):
    """Finds the names below ``google.appengine``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != ROOT and not fullname.startswith(f"{ROOT}."):
            return None
        if fullname in _TARGETS:
            return ModuleSpec(fullname, _Loader(), is_package=True)
        raise _missing(fullname)


class _Google(MetaPathFinder):
    """Provides a package ``google`` where none is installed.

    Packages below it are found in the folders ``google`` of ``sys.path``, as in a namespace package, because
    an application may extend the path later.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "google":
            return ModuleSpec(fullname, _Loader(), is_package=True)
        is_part = fullname.startswith("google.") and fullname.count(".") == 1
        if is_part and isinstance(sys.modules.get("google"), _GoogleModule):
            return PathFinder.find_spec(fullname, [os.path.join(entry, "google") for entry in sys.path])
        return None
