"""The loader and the worker as printed (``tests/support/reload_as_printed.py``) fetch every account."""

import time
from collections import Counter

import pytest

from tests.support.reload_as_printed import ASKED
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("small")]

EXPECTED = {f"user-{n}|no-cache,max-age=0|no-cache" for n in range(40) if n % 4 != 0}


def loads(site: Site) -> tuple[int, int]:
    """How many times the loader has begun, and how many times it has ended."""
    text = site.processes.text()
    return text.count("Starting to load tasks"), text.count(f"Ended load tasks ({len(EXPECTED)} users)")


def test_the_loader_and_the_worker_as_printed_fetch_every_active_account(small_site: Site) -> None:
    """Each full minute cron asks; each load fetches each active account once, with the headers given."""
    asked = small_site.app / ASKED
    deadline = time.monotonic() + 150
    while True:
        assert time.monotonic() < deadline, (loads(small_site), asked.exists() and asked.read_text())
        begun, ended = loads(small_site)
        if ended == 0 or begun != ended or len(asked.read_text().split()) < ended * len(EXPECTED):
            time.sleep(0.1)
            continue
        time.sleep(0.5)  # for one too many
        found = Counter(asked.read_text().split())
        if loads(small_site) == (begun, ended):
            break

    assert found == dict.fromkeys(EXPECTED, ended)
