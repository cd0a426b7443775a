"""Each page of the demo leads to the operator's pages about its work, for people who may open them."""

from collections.abc import Callable

import pytest
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import config
from lastacross.testing import ApplicationUnderTest, DeliveredTask
from tests.support import administrator

JSON = {"Accept": "application/json"}
QUEUES = {
    "/quilt": ["quilt"],
    "/count": ["master", "subtasks"],
    "/intrastat/form": ["reports"],
    "/reloads": ["reload"],
    "/accounts": ["reload"],
    "/errors": ["errors", "notifications"],
}


@pytest.fixture
def client(lastacross_app: ApplicationUnderTest) -> Client:
    """The application in the root behind the web server's layers."""
    return Client(lastacross_app.wsgi)


def links(client: Client, path: str, environ: dict[str, str]) -> list[str]:
    """The paths of the links to the operator's pages."""
    page = client.get(path, extra_environ=environ)
    return [link["href"].removeprefix("/_ah/admin/") for link in page.html.select(".console-links a")]


def admin() -> dict[str, str]:
    """The administrator's environ."""
    return administrator.environ(config.current().settings.secret_key)


def test_each_page_names_its_queues_to_those_who_may_see_them(client: Client) -> None:
    for path, queues in QUEUES.items():
        found = links(client, path, admin())
        assert found == [
            "",
            *(f"{page}{queue}" for queue in queues for page in ("queues/", "tasks?queue=")),
        ], path


def test_a_visitor_sees_none_of_them(client: Client) -> None:
    for path in QUEUES.keys() - {"/errors"}:
        assert links(client, path, {}) == []


def test_a_quilts_page_names_its_batch(client: Client, run_tasks: Callable[..., list[DeliveredTask]]) -> None:
    operation = client.post("/quilt", {"rows": "2", "columns": "2", "delay_ms": "0"}, headers=JSON).json
    run_tasks()

    found = links(client, f"/{operation['name']}", admin())

    assert found[:3] == ["", "queues/quilt", "tasks?queue=quilt"]
    assert [link.startswith("batches?batch=") for link in found[3:]] == [True]
