"""The error collector's code as printed (``tests/support/errors_as_printed.py``) sends its signal once."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import taskqueue
from lastacross.testing import ApplicationUnderTest, DeliveredTask, EnqueuedTask
from tests.support.errors_as_printed import FILES
from tests.support.modules import own_modules
from tests.support.site import Site

pytestmark = pytest.mark.xdist_group("small")


def write(folder: Path) -> Path:
    """The application in a folder of its own."""
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def lastacross_root(tmp_path: Path) -> Iterator[Path]:
    """The application as printed."""
    root = write(tmp_path / "app")
    with own_modules(root):
        yield root


@pytest.fixture
def client(lastacross_app: ApplicationUnderTest) -> Client:
    """Who reports errors."""
    return Client(lastacross_app.wsgi)


def report(client: Client) -> Any:
    """Report an error: its id."""
    return client.post("/errors", {"msg": "went wrong"}).json["id"]


@pytest.fixture
def production(lastacross_app: ApplicationUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application believes that it is in production."""
    monkeypatch.setenv("SERVER_SOFTWARE", "Google App Engine/1.0")


def test_in_development_the_signal_is_sent_at_once(
    client: Client, enqueued: Callable[..., list[EnqueuedTask]]
) -> None:
    """As the author wished: unit tests work, and no buttons are clicked."""
    assert os.environ["SERVER_SOFTWARE"].startswith("Development/")

    number = report(client)

    assert client.get(f"/errors/{number}").json == {"signals": 1, "sent": True}
    assert enqueued() == []
    assert sys.modules["printed"].created.__module__ == "printed"


@pytest.mark.usefixtures("production")
def test_in_production_a_task_sends_it(
    client: Client,
    run_tasks: Callable[..., list[DeliveredTask]],
    assert_enqueued: Callable[..., list[EnqueuedTask]],
) -> None:
    number = report(client)
    assert_enqueued(1, queue="default", url=f"/errors/{number}/created")
    assert client.get(f"/errors/{number}").json == {"signals": 0, "sent": False}

    run_tasks()

    assert client.get(f"/errors/{number}").json == {"signals": 1, "sent": True}


@pytest.mark.usefixtures("production")
def test_the_task_may_be_sent_several_times_and_the_signal_is_sent_once(
    client: Client, run_tasks: Callable[..., list[DeliveredTask]]
) -> None:
    number = report(client)
    taskqueue.add(url=f"/errors/{number}/created")

    assert [delivered.status for delivered in run_tasks()] == [200, 200]

    assert client.get(f"/errors/{number}").json == {"signals": 1, "sent": True}


@pytest.mark.slow
def test_under_dev_the_web_process_sends_it(small_site: Site) -> None:
    number = small_site.post("/errors", msg="went wrong")["id"]
    assert small_site.json(f"/errors/{number}") == {"signals": 1, "sent": True}
