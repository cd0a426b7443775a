"""The fixtures of ``lastacross.testing`` for pytest, which finds them where this package is installed.

Every pytest of the environment loads this module, whatever it tests: the rest of the engine is imported
when a test first asks for a fixture.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from types import ModuleType

    from lastacross import testing

FOLDER = "lastacross_app"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of pytest's configuration file that says where the application is."""
    help_text = "folder with the app.yaml of the application under test; default: the root folder"
    parser.addini(FOLDER, help_text, type="paths", default=None)


@pytest.fixture(scope="session")
def lastacross_redis() -> Iterator[str]:
    """The URL of a Redis server of this run's own; emptied by each test that uses ``lastacross_app``."""
    with _testing().redis_server() as url:
        yield cast(str, url)


@pytest.fixture
def lastacross_root(pytestconfig: pytest.Config) -> Path:
    """The folder of the application: override it in a conftest.py to test another."""
    given = cast("list[Path] | None", pytestconfig.getini(FOLDER))
    return given[0] if given else pytestconfig.rootpath


@pytest.fixture
def lastacross_environ() -> dict[str, str]:
    """Variables for the application's configuration: override it to set some."""
    return {}


@pytest.fixture
def lastacross_app(
    lastacross_redis: str, lastacross_root: Path, lastacross_environ: dict[str, str]
) -> "Iterator[testing.ApplicationUnderTest]":
    """The application, with nothing in its queues, its cache and its datastore."""
    made = _testing().application(lastacross_root, redis_url=lastacross_redis, environ=lastacross_environ)
    with made as app:
        yield cast("testing.ApplicationUnderTest", app)


@pytest.fixture
def run_tasks(
    lastacross_app: "testing.ApplicationUnderTest",
) -> "Callable[..., list[testing.DeliveredTask]]":
    """``run_tasks()`` runs what waits until nothing does."""
    return lastacross_app.run_tasks


@pytest.fixture
def inline_tasks(
    lastacross_app: "testing.ApplicationUnderTest",
) -> Callable[..., AbstractContextManager[None]]:
    """``with inline_tasks():`` runs what is added at once."""
    return lastacross_app.inline_tasks


@pytest.fixture
def enqueued(lastacross_app: "testing.ApplicationUnderTest") -> "Callable[..., list[testing.EnqueuedTask]]":
    """``enqueued("queue")`` are the tasks that wait."""
    return lastacross_app.enqueued


@pytest.fixture
def assert_enqueued(
    lastacross_app: "testing.ApplicationUnderTest",
) -> "Callable[..., list[testing.EnqueuedTask]]":
    """``assert_enqueued(2, url="/work")`` fails unless that is what waits."""
    return lastacross_app.assert_enqueued


def _testing() -> "ModuleType":
    return importlib.import_module("lastacross.testing")
