"""Who has signed in, as an application and the console see it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import store
from lastacross.store import Store
from tests.support import web

MAIN = """
import json
from lastacross import webapp

def app(environ, start_response):
    person = webapp.signed_in(environ)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(person and [person.name, person.role, person.source]).encode()]
"""


@pytest.fixture
def site(tmp_path: Path, test_store: Store) -> Iterator[web.Site]:
    """A site with a Redis."""
    with web.site(tmp_path, MAIN) as site:
        store.use(test_store)
        yield site


def test_the_administrator_of_a_link_is_an_administrator_and_strangers_and_tasks_are_nobody(
    site: web.Site,
) -> None:
    assert site.get("/").json is None
    assert site.get("/", **site.administrator).json == ["administrator", "admin", "link"]
    assert site.deliver("/", **site.administrator).json is None
    assert site.get("/", HTTP_SEC_FETCH_SITE="cross-site", **site.administrator).json is None
