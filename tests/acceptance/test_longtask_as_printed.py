"""The long task as printed (``tests/support/longtask_as_printed.py``) runs and shows its result."""

import datetime
import http.cookiejar
import json
import time
import urllib.parse
import urllib.request
from typing import Any

import pytest

from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("small")]


def messages(site: Site, address: str) -> list[dict[str, Any]]:
    """What the operation says again and again, until it is done."""
    seen: list[dict[str, Any]] = []
    deadline = time.monotonic() + 60
    while not seen or not seen[-1]["done"]:
        assert time.monotonic() < deadline, seen[-1:]
        seen.append(site.json(address))
        time.sleep(0.05)
    return seen


def test_the_example_as_printed_reports_its_progress_and_shows_its_result(small_site: Site) -> None:
    """A GET starts it; the bookmark waits, then is the result; another request starts another one."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    with browser.open(f"{small_site.url}/intrastat?anlass=monatlich", timeout=20) as page:
        bookmark = page.url.removeprefix(small_site.url)
        waiting = page.read().decode()
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(bookmark).query)
    assert (query["_longtaskjob"], len(query["_longtaskid"][0])) == (["query"], 22)
    assert "monatlich" in waiting
    seen = messages(small_site, bookmark)
    with browser.open(small_site.url + bookmark, timeout=20) as page:
        assert page.headers["Content-Type"].startswith("text/plain")
        result = page.read().decode()

    first = (datetime.date.today().replace(day=1) - datetime.timedelta(days=1)).replace(day=1)
    assert result == f"{first};40;820\r\n"
    assert seen[-1]["response"]["result"] == result
    told = {operation["metadata"]["message"] for operation in seen}
    assert sum(message.startswith("Handling ") for message in told) >= 5, json.dumps(seen[-1])
    steps = [operation["metadata"]["step"] for operation in seen if not operation["done"]]
    assert steps == sorted(steps)
