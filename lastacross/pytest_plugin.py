"""Provides the pytest fixtures of ``lastacross.testing`` wherever this package is installed.

Every pytest run in the environment loads this module, so the rest of the engine is imported only when a test
first uses a fixture.
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
    """Add the option for the application's folder to pytest's configuration file."""
    help_text = "folder with the app.yaml of the application under test; default: the root folder"
    parser.addini(FOLDER, help_text, type="paths", default=None)


@pytest.fixture(scope="session")
def lastacross_redis() -> Iterator[str]:
    """The URL of this run's own Redis server, which is flushed for each test that uses ``lastacross_app``."""
    with _testing().redis_server() as url:
        yield cast(str, url)


@pytest.fixture
def lastacross_root(pytestconfig: pytest.Config) -> Path:
    """The application's folder; override this fixture in a conftest.py to test another application."""
    given = cast("list[Path] | None", pytestconfig.getini(FOLDER))
    return given[0] if given else pytestconfig.rootpath


@pytest.fixture
def lastacross_environ() -> dict[str, str]:
    """The environment variables for the application's configuration; override this fixture to set any."""
    return {}


@pytest.fixture
def lastacross_app(
    lastacross_redis: str, lastacross_root: Path, lastacross_environ: dict[str, str]
) -> "Iterator[testing.ApplicationUnderTest]":
    """The application, with empty queues, cache and datastore."""
    made = _testing().application(lastacross_root, redis_url=lastacross_redis, environ=lastacross_environ)
    with made as app:
        yield cast("testing.ApplicationUnderTest", app)


@pytest.fixture
def run_tasks(
    lastacross_app: "testing.ApplicationUnderTest",
) -> "Callable[..., list[testing.DeliveredTask]]":
    """``run_tasks()`` runs tasks until no task is waiting."""
    return lastacross_app.run_tasks


@pytest.fixture
def inline_tasks(
    lastacross_app: "testing.ApplicationUnderTest",
) -> Callable[..., AbstractContextManager[None]]:
    """``with inline_tasks():`` runs tasks as soon as they are added."""
    return lastacross_app.inline_tasks


@pytest.fixture
def enqueued(lastacross_app: "testing.ApplicationUnderTest") -> "Callable[..., list[testing.EnqueuedTask]]":
    """``enqueued("queue")`` returns the waiting tasks."""
    return lastacross_app.enqueued


@pytest.fixture
def assert_enqueued(
    lastacross_app: "testing.ApplicationUnderTest",
) -> "Callable[..., list[testing.EnqueuedTask]]":
    """``assert_enqueued(2, url="/work")`` fails unless exactly two such tasks are waiting."""
    return lastacross_app.assert_enqueued


def _testing() -> "ModuleType":
    return importlib.import_module("lastacross.testing")
