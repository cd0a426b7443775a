"""The list of the visitor's own long tasks: theirs, all of them, and nobody else's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import datastore
from lastacross.datastore.tables import LongTask
from lastacross.longtasks import visitor
from tests.support import databases, longtask_lab
from tests.support.longtask_lab import JSON, Lab, running_lab
from tests.support.redis_server import RedisServer

MAIN = longtask_lab.MAIN.replace(
    '        ("/told", Told),', '        ("/longtasks", longtask.ListHandler),\n        ("/told", Told),'
)


@pytest.fixture
def lab(app_root: Path, redis_server: RedisServer, tmp_path: Path) -> Iterator[Lab]:
    with running_lab(
        app_root, redis_server.url, databases.migrated_sqlite(tmp_path / "list.db", app_root), MAIN
    ) as running:
        yield running


def listed(lab: Lab) -> list[dict[str, Any]]:
    """The list, for programs."""
    found: list[dict[str, Any]] = lab.client.get("/longtasks", headers=JSON).json["longtasks"]
    return found


def test_what_this_browser_has_started_is_listed_newest_first_with_its_state(lab: Lab) -> None:
    first, second = lab.start(a="1"), lab.start(a="2")
    lab.run()

    found = listed(lab)

    assert [operation["name"] for operation in found] == [f"told/{second}", f"told/{first}"]
    assert [operation["metadata"]["state"] for operation in found] == ["ready", "done"]
    assert "1 done, 1 ready" in lab.client.get("/longtasks").text
    assert all("response" not in operation for operation in found), "a list is no place for results"


def test_the_page_has_a_row_for_each_with_its_progress(lab: Lab) -> None:
    lab.start(a="<b>1</b>")
    seen: list[str] = []

    def report(handler: Any, _given: Any) -> None:
        handler.log_progress("Half way", 1, 2)
        seen.append(lab.client.get("/longtasks").text)

    lab.execute(report)
    lab.run()

    assert '<progress data-of="bar" max="2" value="1"' in seen[0]
    assert "50 % \N{EN DASH} Half way" in seen[0]
    assert "a: &lt;b&gt;1&lt;/b&gt;" in seen[0]
    assert "<progress" not in lab.client.get("/longtasks").text


def test_a_visitor_without_the_cookie_or_with_a_forged_one_has_an_empty_list(lab: Lab) -> None:
    task_id = lab.start()
    signed = lab.client.cookies[visitor.COOKIE]

    for cookie in ("", task_id, f'["{task_id}"]', signed[:-2], f"x{signed}"):
        lab.client.reset()
        if cookie:
            lab.client.set_cookie(visitor.COOKIE, cookie)
        assert listed(lab) == []
        assert "No tasks yet." in lab.client.get("/longtasks").text


def test_the_list_is_kept_by_no_shared_cache(lab: Lab) -> None:
    answer = lab.client.get("/longtasks")

    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["Vary"] == "Accept, Cookie"


def test_what_is_forgotten_is_listed_no_more(lab: Lab) -> None:
    task_id = lab.start()
    lab.run()
    assert len(listed(lab)) == 1
    with datastore.session() as session:
        row = session.get(LongTask, task_id)
        assert row is not None
        row.expires_at = 1.0

    assert listed(lab) == []
