"""An application whose imports name ``google.appengine``, as it was written for App Engine."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from webob import Request

from lastacross import (
    config,
    deferred,
    google_names,
    memcache,
    namespace_manager,
    taskqueue,
    testing,
    urlfetch,
)
from lastacross.errors import ConfigError, DeadlineExceededError
from lastacross.processes import application
from tests.support.modules import own_modules
from tests.support.redis_server import RedisServer

ENVIRON = {"SECRET_KEY": "a secret key of the tests, long enough"}

APP_YAML = "google_names: true\nhandlers:\n- url: /.*\n  script: main.app\n"

MAIN = """\
import pickle

from google.appengine.api import channel, memcache, namespace_manager, taskqueue, urlfetch, wrap_wsgi_app
from google.appengine.api import runtime
from google.appengine.api.labs import taskqueue as old_taskqueue
from google.appengine.api.taskqueue import TaskAlreadyExistsError, TombstonedTaskError
from google.appengine.api.urlfetch_errors import DownloadError
from google.appengine.ext import deferred
from google.appengine.ext.deferred.deferred import PermanentTaskFailure
from google.appengine.runtime import DeadlineExceededError, apiproxy_errors
import google.appengine.api.memcache as by_its_whole_name

try:
    from google.appengine.ext import ndb
except ImportError as error:
    ndb = str(error)


def count(step):
    memcache.incr("count", step, initial_value=0)


def serve(environ, start_response):
    if environ["PATH_INFO"] == "/start":
        deferred.defer(count, 2)
        old_taskqueue.add(url="/work", params={"step": 3})
        try:
            deferred.defer(lambda: None)
        except pickle.PicklingError:
            memcache.set("refused", True)
    else:
        count(3)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


app = wrap_wsgi_app(serve, use_deferred=True)
"""


@pytest.fixture
def imports() -> Iterator[None]:
    """The process's imports, which are afterwards as they were before."""
    finders, path = list(sys.meta_path), list(sys.path)
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "google"}
    for name in before:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "google"]:
        del sys.modules[name]
    sys.modules.update(before)
    sys.meta_path[:], sys.path[:] = finders, path
    importlib.invalidate_caches()


@pytest.fixture
def program(app_root: Path, imports: None) -> Iterator[Path]:
    """The application of ``MAIN``."""
    (app_root / "app.yaml").write_text(APP_YAML)
    (app_root / "main.py").write_text(MAIN)
    with own_modules(app_root):
        yield app_root
    config.use(None)


def test_a_program_runs_with_its_imports_unchanged(program: Path, redis_server: RedisServer) -> None:
    with testing.application(program, redis_url=redis_server.url) as app:
        answer = Request.blank("/start").get_response(app.wsgi)
        assert (answer.status_code, answer.body) == (200, b"ok")
        app.run_tasks()

        assert memcache.get("count") == 5
        assert memcache.get("refused") is True


def test_a_program_loads_in_a_process_of_any_kind(program: Path) -> None:
    """All of them call ``prepare_process`` before the first import of the application."""
    application.prepare_process(config.load(program, ENVIRON))

    main = importlib.import_module("main")

    assert main.ndb == (
        "google.appengine.ext.ndb is not available here: declare SQLAlchemy models, and read and write them "
        "in lastacross.datastore.session()"
    )
    assert main.DeadlineExceededError is DeadlineExceededError
    assert issubclass(main.apiproxy_errors.DeadlineExceededError, main.apiproxy_errors.Error)
    assert main.PermanentTaskFailure is deferred.PermanentTaskFailure
    assert main.TombstonedTaskError is taskqueue.TombstonedTaskError
    assert main.DownloadError is urlfetch.DownloadError
    assert main.by_its_whole_name.get == memcache.get
    assert main.runtime.memory_usage().current > 0
    assert main.old_taskqueue.Task is main.taskqueue.Task is taskqueue.Task


def test_without_the_key_the_names_are_not_there(program: Path) -> None:
    (program / "app.yaml").write_text(APP_YAML.replace("true", "false"))

    with pytest.raises(ConfigError, match=r"imports `google\S*`, which is not installed: set `google_names"):
        application.load(config.load(program, ENVIRON))


@pytest.mark.usefixtures("imports")
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("ext.db", "SQLAlchemy"),
        ("ext.ndb.model", "SQLAlchemy"),
        ("ext.blobstore", "uploads"),
        ("ext.testbed", "lastacross.testing"),
        ("ext.webapp.util", "webapp2"),
        ("api.users", "signed_in"),
        ("api.mail", "smtplib"),
        ("api.search", "full-text search"),
        ("api.images", "Pillow"),
        ("api.unheard_of", "docs/appengine.md"),
        ("api.taskqueue.Unheard", "docs/appengine.md"),
        ("datastore.entity", "SQLAlchemy"),
    ],
)
def test_a_name_that_is_not_there_says_what_to_use(name: str, remedy: str) -> None:
    google_names.install()
    parent, _, last = name.rpartition(".")

    with pytest.raises(ImportError, match=remedy):
        importlib.import_module(f"google.appengine.{name}")
    with pytest.raises(ImportError, match=remedy):
        exec(f"from google.appengine.{parent} import {last}", {})


@pytest.mark.usefixtures("imports")
@pytest.mark.parametrize(
    ("parent", "name", "error"),
    [
        ("ext", "ndb", ModuleNotFoundError),
        ("api", "users", ModuleNotFoundError),
        ("api", "unheard", ModuleNotFoundError),
        ("runtime", "features", ModuleNotFoundError),
        ("ext.ndb", "Key", ModuleNotFoundError),
        ("api", "Unheard", ImportError),
        ("api.taskqueue", "unheard", ImportError),
        ("ext.deferred.deferred", "Unheard", ImportError),
    ],
)
def test_a_missing_module_and_a_missing_name_raise_pythons_own_errors(
    parent: str, name: str, error: type[ImportError]
) -> None:
    google_names.install()

    for _ in range(2):
        with pytest.raises(ImportError, match="is not available here") as raised:
            exec(f"from google.appengine.{parent} import {name}", {})
        assert raised.type is error


@pytest.mark.usefixtures("imports")
def test_all_names_can_be_imported_and_installed_twice() -> None:
    finders = len(sys.meta_path)
    google_names.install()
    google_names.install()

    assert len(sys.meta_path) == finders + 2
    for name in google_names.provided():
        assert importlib.import_module(name).__name__ == name
    assert "Queue" in dir(importlib.import_module("google.appengine.api.taskqueue"))
    found: dict[str, object] = {}
    exec("from google.appengine.api.taskqueue import *", found)
    assert found["Queue"] is taskqueue.Queue


@pytest.mark.usefixtures("imports")
def test_a_patch_of_a_google_name_patches_ours() -> None:
    google_names.install()
    before = urlfetch.fetch

    with mock.patch("google.appengine.api.urlfetch.fetch", "patched"):
        assert urlfetch.fetch == "patched"  # type: ignore[comparison-overlap]

    assert urlfetch.fetch is before


@pytest.mark.usefixtures("imports")
def test_our_modules_keep_their_own_names_and_parts() -> None:
    google_names.install()
    importlib.import_module("google.appengine.ext.deferred.deferred")
    importlib.import_module("google.appengine.api.namespace_manager.namespace_manager")

    assert deferred.__spec__ is not None
    assert deferred.__spec__.name == "lastacross.deferred"
    assert not hasattr(deferred, "deferred")
    assert not hasattr(namespace_manager, "namespace_manager")


def package(root: Path, name: str, text: str = "") -> Path:
    """A folder for ``sys.path`` with this package in it."""
    folder = root.joinpath(*name.split("."))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(text)
    return root


@pytest.mark.usefixtures("imports")
def test_other_packages_of_google_stay(tmp_path: Path) -> None:
    """Whether they are on the path already, or an application adds them later."""
    sys.path.insert(0, str(package(tmp_path / "one", "google.first", "NAME = 'first'")))
    importlib.invalidate_caches()
    google_names.install()

    assert importlib.import_module("google.first").NAME == "first"
    assert importlib.import_module("google.appengine.api.taskqueue").Queue is taskqueue.Queue
    sys.path.insert(0, str(package(tmp_path / "two", "google.second", "NAME = 'second'")))
    importlib.invalidate_caches()
    assert importlib.import_module("google.second").NAME == "second"


@pytest.mark.usefixtures("imports")
def test_packages_of_google_may_come_after_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing of Google's is installed, our package ``google`` is a namespace all the same."""
    bare = [entry for entry in sys.path if not (Path(entry) / "google").is_dir()]
    monkeypatch.setattr(sys, "path", bare)
    importlib.invalidate_caches()
    google_names.install()
    importlib.import_module("google.appengine.ext")
    sys.path.insert(0, str(package(tmp_path, "google.later", "NAME = 'later'")))
    importlib.invalidate_caches()

    assert importlib.import_module("google.later").NAME == "later"
    assert importlib.util.find_spec("google.never") is None


@pytest.mark.usefixtures("imports")
def test_the_real_package_is_not_hidden(tmp_path: Path, app_root: Path) -> None:
    sys.path.insert(0, str(package(tmp_path, "google.appengine")))
    importlib.invalidate_caches()

    with pytest.raises(ConfigError, match=r"the real google\.appengine is installed .*google/appengine"):
        google_names.install()

    assert not [finder for finder in sys.meta_path if type(finder).__module__ == google_names.__name__]
