"""Fixtures of every test: a real Redis, a store on it with a stopped clock, a configuration.

pytest-xdist runs the modules in two processes, each with its own servers: all tests of a module, or of the
modules with one ``xdist_group`` mark, run in one process and share their fixtures.
"""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer

from lastacross import config, logs, store
from tests.support.clock import StoppedClock
from tests.support.redis_server import RedisServer, running_server
from tests.support.scheduling import GroupScheduling

logs.route_to_stdlib()

# pytest finds the first by itself where the package is installed.
pytest_plugins = ["lastacross.pytest_plugin", "tests.support.tries", "tests.security.table"]

SECRET_KEY = "a secret key of the tests, long enough"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow modules, so that both processes end together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let every report travel between processes: pytest-xdist refuses a lone surrogate in captured text."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling:
    """Keep the tests of a module, and of a group of modules, in one process."""
    return GroupScheduling(config, log)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real server, shared by the tests of a run; LASTACROSS_TEST_REDIS names another that is there."""
    if given := os.environ.get("LASTACROSS_TEST_REDIS"):
        yield RedisServer.at(given)
        return
    with running_server() as server:
        yield server


@pytest.fixture
def clock() -> StoppedClock:
    """A clock that stands still."""
    return StoppedClock()


@pytest.fixture
def app_root(tmp_path: Path) -> Path:
    """An application's folder with the smallest configuration; a test may add to it."""
    (tmp_path / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (tmp_path / "queue.yaml").write_text("queue:\n- name: default\n  rate: 500/s\n  bucket_size: 500\n")
    return tmp_path


@pytest.fixture
def configuration(app_root: Path, redis_server: RedisServer, tmp_path: Path) -> Iterator[config.Config]:
    """The configuration of ``app_root``, in use for this test."""
    environ = {
        "REDIS_URL": redis_server.url,
        "DATABASE_URL": f"sqlite:///{tmp_path}/test.db",
        "SECRET_KEY": SECRET_KEY,
        "LASTACROSS_DATA_DIR": str(tmp_path / "var"),
    }
    loaded = config.load(app_root, environ)
    config.use(loaded)
    yield loaded
    config.use(None)


@pytest.fixture
def test_store(configuration: config.Config, clock: StoppedClock) -> Iterator[store.Store]:
    """An empty store with the stopped clock, in use for this test."""
    opened = store.Store(configuration.settings.redis_url, clock)
    opened.redis.flushall()
    store.use(opened)
    yield opened
    store.use(None)
    opened.close()
