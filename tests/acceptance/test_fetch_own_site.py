"""Under ``dev`` a task fetches from the site itself; nobody becomes its administrator by that."""

import pytest

from tests.support.processes import wait_until
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("small")]


def test_a_task_fetches_from_its_own_site_and_is_not_the_developer(small_site: Site) -> None:
    before = small_site.json("/start")
    assert before == {"/feed": None, "/secret": None}
    small_site.post("/start")
    wait_until(lambda: all(small_site.json("/start").values()), 30, "both fetches")
    found = small_site.json("/start")

    assert found["/feed"] == [200, "fine"]
    assert found["/secret"][0] == 403
